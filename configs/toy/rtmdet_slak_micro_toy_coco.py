# RTMDet on the toy data, from scratch, with a neck and a head as narrow.
_base_ = ['../rtmdet_slak_t_300e_coco.py', '../_base_/datasets/toy_coco.py']
width = 48

model = dict(
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    neck=dict(in_channels=_base_.toy_widths[1:], out_channels=width, num_csp_blocks=1),
    bbox_head=dict(in_channels=width, feat_channels=width, num_classes=len(_base_.toy_classes)),
    test_cfg=dict(nms_pre=200, max_per_img=20))

pretrained = None
# it would take the centres of objects from masks, and wants those as tensors
_base_.toy_train_dataloader.dataset.pipeline[1].with_mask = False
train_dataloader = dict(_delete_=True, **_base_.toy_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.toy_val_dataloader)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, **dict(_base_.toy_evaluator, metric='bbox'))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(decay_rate=1.))
train_cfg = dict(_delete_=True, **_base_.toy_train_cfg)
param_scheduler = _base_.toy_param_scheduler
default_hooks = _base_.toy_hooks
custom_hooks = []
randomness = dict(seed=0)
