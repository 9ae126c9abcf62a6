# SLaK-S teaches ConvNeXt-S (84.3%), with the drop path of T, as in the authors' script.
_base_ = 'convnext_t_l2s_slak_t_300e_in1k.py'

model = dict(
    student=dict(backbone=dict(arch='small')),
    teacher=dict(backbone=dict(arch='small'), init_cfg=dict(checkpoint='checkpoints/slak_s_300e_in1k.pth')))
