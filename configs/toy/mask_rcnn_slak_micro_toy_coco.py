# Mask R-CNN on the toy data, from scratch, as Cascade Mask R-CNN is in the demo.
_base_ = ['../mask_rcnn_slak_t_1x_coco.py', '../_base_/datasets/toy_coco.py']
width = _base_.toy_width

model = dict(
    _base_.toy_rcnn,
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=128, num_classes=len(_base_.toy_classes)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=len(_base_.toy_classes))),
    train_cfg=dict(_base_.toy_rcnn.train_cfg, rcnn=dict(sampler=dict(num=16))))

pretrained = None
train_dataloader = dict(_delete_=True, **_base_.toy_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.toy_val_dataloader)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, **_base_.toy_evaluator)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(decay_rate=1.))
train_cfg = dict(_delete_=True, **_base_.toy_train_cfg)
param_scheduler = _base_.toy_param_scheduler
default_hooks = _base_.toy_hooks
custom_hooks = []
randomness = dict(seed=0)
