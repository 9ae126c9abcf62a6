# ConvNeXt-B's fine-tuning at 384. A batch of 512 = 2 accumulated times 8 GPUs x 32.
optim_wrapper = dict(
    type='OptimWrapper',
    accumulative_counts=2,
    optimizer=dict(type='AdamW', lr=5e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-8),
    constructor='slak_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=12))
# to 1e-6 times the scale of each layer
param_scheduler = [dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=30, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=512)
