# mmdet's Mask2Former for instances, with SLaK-T and layer decay in the place of a tenth of the learning rate for the whole backbone.
_base_ = [
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    '_base_/models/dense_slak.py',
    '_base_/static_sparsity.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 300 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_300e_in1k.pth'

model = dict(backbone=_base_.slak, panoptic_head=dict(in_channels=_base_.widths))
optim_wrapper = dict(
    constructor='slak_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7, decay_type='layer_wise', num_layers=6))
