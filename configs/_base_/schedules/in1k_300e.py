# A batch of 4096 = 8 accumulated times 512 images: 4 GPUs x 128, 8 x 64 or 16 x 32. Whatever the number of GPUs, keep
# GPUs x batch_size x accumulative_counts at 4096, or give --auto-scale-lr.
optim_wrapper = dict(
    type='OptimWrapper',
    accumulative_counts=8,
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
# Updated at each iteration. LinearLR cannot start at 0, hence at 4e-9. The `end`, always the number of epochs, lets a run be
# shorter than its warmup.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=20, end=300, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=4096)
