# mmsegmentation's Mask2Former, with SLaK-T and layer decay in the place of a tenth of the learning rate for the whole backbone.
_base_ = [
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    '_base_/models/dense_slak.py',
    '_base_/static_sparsity.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 300 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_300e_in1k.pth'

model = dict(backbone=_base_.slak, decode_head=dict(in_channels=_base_.widths))
optim_wrapper = dict(
    constructor='slak_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=0.9, decay_type='stage_wise', num_layers=6))
