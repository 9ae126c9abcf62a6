_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05))
param_scheduler = [
    # mmengine reaches the end of the warmup one step before its `end`, mmcv 1 at it: hence the + 1
    dict(type='LinearLR', start_factor=0.001, begin=0, end=500 + 1, by_epoch=False),
    dict(type='MultiStepLR', milestones=[8, 11], gamma=0.1, begin=0, end=12, by_epoch=True),
]
