_base_ = 'upernet_slak_t_160k_ade20k.py'

pretrained = 'checkpoints/slak_s_300e_in1k.pth'

model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
