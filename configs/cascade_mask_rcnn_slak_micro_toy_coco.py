# A micro SLaK on the toy data of tools/make_toy_data.py: what `make demo-det` trains, in about five minutes on two CPU cores.
_base_ = [
    '_base_/models/cascade_mask_rcnn_slak.py',
    '_base_/datasets/coco_instance.py',
    '_base_/datasets/toy_coco.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/schedules/adamw_1x.py',
]
data_root = _base_.toy_root
classes = _base_.toy_classes
epochs = 16
width = _base_.toy_width

model = dict(
    _base_.toy_rcnn,
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), out_channels=width),
        bbox_head=[
            dict(head, in_channels=width, conv_out_channels=width, fc_out_channels=128, num_classes=len(classes))
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=len(classes))),
    train_cfg=dict(
        _base_.toy_rcnn.train_cfg,
        rcnn=[dict(stage, sampler=dict(stage.sampler, num=16)) for stage in _base_.model.train_cfg.rcnn]))

train_pipeline = _base_.toy_train_dataloader.dataset.pipeline
test_pipeline = _base_.toy_val_dataloader.dataset.pipeline
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=dict(classes=classes), pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=dict(classes=classes), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, by_epoch=False),
    dict(type='MultiStepLR', milestones=[11, 14], gamma=0.1, begin=0, end=epochs, by_epoch=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
default_hooks = dict(logger=dict(interval=15), checkpoint=dict(interval=epochs), visualization=dict(score_thr=0.4))
randomness = dict(seed=0)
