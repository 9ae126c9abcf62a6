# SegNeXt's light Hamburger head (mmsegmentation) over SLaK-T, with the schedule of UPerNet.
_base_ = [
    'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
    '_base_/models/dense_slak.py',
    '_base_/static_sparsity.py',
]
# Where tools/train.py looks for the official file "SLaK-T, 300 epochs"; --pretrained gives another place.
pretrained = 'checkpoints/slak_t_300e_in1k.pth'

model = dict(backbone=_base_.slak, decode_head=dict(in_channels=_base_.widths[1:]))
optim_wrapper = dict(
    constructor='slak_mm.LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(_delete_=True, decay_rate=0.9, decay_type='stage_wise', num_layers=6))
