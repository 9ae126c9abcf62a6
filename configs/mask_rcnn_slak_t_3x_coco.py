# The recipe of mmdet's mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py: lr 1e-4, layer decay .95.
_base_ = [
    '_base_/models/mask_rcnn_slak.py',
    '_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/schedules/adamw_3x.py',
    '_base_/static_sparsity.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 300 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_300e_in1k.pth'

optim_wrapper = dict(
    constructor='slak_mm.LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(decay_rate=0.95, decay_type='layer_wise', num_layers=6))
