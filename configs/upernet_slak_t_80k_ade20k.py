_base_ = [
    '_base_/models/upernet_slak.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '_base_/schedules/adamw_80k.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 120 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_120e_in1k.pth'

model = dict(backbone=dict(drop_path_rate=0.1))
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0., flat_decay_mult=0.))
