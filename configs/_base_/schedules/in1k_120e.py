_base_ = 'in1k_300e.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=20, end=120, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=120)
