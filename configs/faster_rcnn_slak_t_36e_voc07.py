_base_ = [
    '_base_/models/faster_rcnn_slak.py',
    '_base_/datasets/voc07.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/schedules/adamw_3x.py',
    '_base_/static_sparsity.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 120 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_120e_in1k.pth'

model = dict(roi_head=dict(bbox_head=dict(num_classes=20)))
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(norm_decay_mult=0., flat_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=1000 + 1, by_epoch=False),
    dict(type='MultiStepLR', milestones=[27, 33], gamma=0.1, begin=0, end=36, by_epoch=True),
]
