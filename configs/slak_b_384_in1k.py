_base_ = [
    '_base_/models/slak.py',
    '_base_/datasets/imagenet_384.py',
    '_base_/schedules/in1k_384_30e.py',
    'mmpretrain::_base_/default_runtime.py',
    '_base_/static_sparsity.py',
]
# the official file "SLaK-B, 300 epochs", with its head; --cfg-options load_from=FILE_OR_URL gives another place
load_from = 'checkpoints/slak_b_300e_in1k.pth'

model = dict(backbone=dict(arch='base', drop_path_rate=0.8), head=dict(in_channels=1331), train_cfg=None)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
