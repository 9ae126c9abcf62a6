_base_ = 'mask_rcnn_slak_t_3x_coco.py'

param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], milestones=[8, 11], end=12)]
train_cfg = dict(max_epochs=12)
