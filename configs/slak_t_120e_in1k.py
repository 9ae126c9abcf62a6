_base_ = [
    '_base_/models/slak.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/in1k_120e.py',
    'mmpretrain::_base_/default_runtime.py',
    '_base_/dynamic_sparsity.py',
]

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
