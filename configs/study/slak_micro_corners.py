# A question that only pixels far apart can answer: do the red discs share a side of the square, or a diagonal? The model has one
# block, so what it relates has to be within reach of one kernel.
_base_ = 'slak_micro_clothing.py'
custom_imports = dict(imports='slak_mm.toy.corners')

side = 48
iters = 1000

model = dict(backbone=dict(out_indices=0), head=dict(in_channels=_base_.channels[0], num_classes=2))
data_preprocessor = dict(num_classes=2)
pipeline = [dict(type='PackInputs')]
# no picture is seen twice
train_dataloader = dict(
    dataset=dict(_delete_=True, type='Corners', side=side, count=32 * iters, seed=0, pipeline=pipeline))
val_dataloader = dict(dataset=dict(_delete_=True, type='Corners', side=side, count=1000, seed=1, pipeline=pipeline))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=100, end=iters, T_max=iters - 100),
]
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=300, by_epoch=False))
