_base_ = '../cascade_mask_rcnn_slak_t_3x_coco.py'

model = dict(backbone=dict(deploy=True))
custom_hooks = []  # of training
