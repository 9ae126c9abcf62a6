_base_ = 'mmseg::_base_/schedules/schedule_160k.py'

optimizer = dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
optim_wrapper = dict(optimizer=optimizer)
# mmcv 1 multiplied its poly curve, counted from iteration 0, by its warmup factor. Both reach their end one step later than
# mmengine's `end`, hence the + 1.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500 + 1, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=160000 + 1, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
