# mmrotate's Oriented R-CNN (angles in le90, DOTA), with SLaK-T and the optimizer and layer decay of Mask R-CNN.
_base_ = [
    'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
    '../_base_/models/dense_slak.py',
    '../_base_/static_sparsity.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 300 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_300e_in1k.pth'

model = dict(backbone=dict(_base_.slak, drop_path_rate=0.2), neck=dict(in_channels=_base_.widths))
optim_wrapper = dict(
    constructor='slak_mm.LayerDecayOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(decay_rate=0.95, decay_type='layer_wise', num_layers=6))
