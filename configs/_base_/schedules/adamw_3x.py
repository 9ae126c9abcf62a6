_base_ = 'adamw_1x.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=500 + 1, by_epoch=False),
    dict(type='MultiStepLR', milestones=[27, 33], gamma=0.1, begin=0, end=36, by_epoch=True),
]
train_cfg = dict(max_epochs=36)
