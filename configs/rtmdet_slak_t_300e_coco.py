# mmdet's RTMDet, with SLaK-T under the neck of its large model.
_base_ = [
    'mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
    '_base_/models/dense_slak.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 300 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_300e_in1k.pth'

model = dict(backbone=dict(_base_.slak, out_indices=(1, 2, 3)), neck=dict(in_channels=_base_.widths[1:]))
optim_wrapper = dict(
    constructor='slak_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6))
# sparse fine-tuning, and RTMDet's own hooks; what is zero from the first step on is zero in its average, too
custom_hooks = [dict(type='slak_mm.SparsityHook', init='checkpoint', grow=None), *_base_.custom_hooks]
