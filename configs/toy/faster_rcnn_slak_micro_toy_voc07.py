# Faster R-CNN on the toy data in VOC2007's layout, from scratch, as Cascade Mask R-CNN is in the demo.
_base_ = ['../faster_rcnn_slak_t_36e_voc07.py', '../_base_/datasets/toy_coco.py']
data_root = 'data/toy_voc07/'
width = _base_.toy_width

model = dict(
    _base_.toy_rcnn,
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=128)),
    train_cfg=dict(_base_.toy_rcnn.train_cfg, rcnn=dict(sampler=dict(num=16))))

pretrained = None
resize = dict(type='Resize', scale=_base_.toy_scale, keep_ratio=True)
train_pipeline = [resize if step.type == 'RandomChoice' else step for step in _base_.train_pipeline]
test_pipeline = [resize if step.type == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2e-3))
train_cfg = dict(_delete_=True, **_base_.toy_train_cfg)
param_scheduler = _base_.toy_param_scheduler
default_hooks = _base_.toy_hooks
custom_hooks = []
randomness = dict(seed=0)
