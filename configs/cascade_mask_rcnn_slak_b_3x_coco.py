_base_ = 'cascade_mask_rcnn_slak_t_3x_coco.py'

pretrained = 'checkpoints/slak_b_300e_in1k.pth'

model = dict(backbone=dict(arch='base', drop_path_rate=0.7), neck=dict(in_channels=[166, 332, 665, 1331]))
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8, num_layers=12))
