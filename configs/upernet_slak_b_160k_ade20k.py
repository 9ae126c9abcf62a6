_base_ = 'upernet_slak_t_160k_ade20k.py'

pretrained = 'checkpoints/slak_b_300e_in1k.pth'

model = dict(
    backbone=dict(arch='base'),
    decode_head=dict(in_channels=[166, 332, 665, 1331]),
    auxiliary_head=dict(in_channels=665))
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
