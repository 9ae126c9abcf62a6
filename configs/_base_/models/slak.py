_base_ = 'mmpretrain::_base_/models/convnext/convnext-tiny.py'

# From there: label smoothing .1, and either mixup .8 or CutMix 1.0 of each batch, with equal probability.
model = dict(
    backbone=dict(_delete_=True, type='slak_mm.SLaK', arch='tiny', drop_path_rate=0.1),
    head=dict(in_channels=998))
