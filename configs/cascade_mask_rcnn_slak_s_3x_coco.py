_base_ = 'cascade_mask_rcnn_slak_t_3x_coco.py'

pretrained = 'checkpoints/slak_s_300e_in1k.pth'

model = dict(backbone=dict(arch='small', drop_path_rate=0.6))
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
