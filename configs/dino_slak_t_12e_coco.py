# mmdet's DINO, 4 scales, with SLaK-T and layer decay in the place of a tenth of the learning rate for the whole backbone.
_base_ = [
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    '_base_/models/dense_slak.py',
    '_base_/static_sparsity.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 300 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_300e_in1k.pth'

model = dict(backbone=dict(_base_.slak, drop_path_rate=0.2, out_indices=(1, 2, 3)), neck=dict(in_channels=_base_.widths[1:]))
optim_wrapper = dict(
    constructor='slak_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7, decay_type='layer_wise', num_layers=6))
