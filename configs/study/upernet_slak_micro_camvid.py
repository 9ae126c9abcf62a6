# UPerNet with the micro SLaK of slak_micro_clothing.py on CamVid: street scenes of 480x360, 11 classes; 11 in the maps is void.
_base_ = ['../_base_/models/upernet_slak.py', 'mmseg::_base_/default_runtime.py', '../_base_/schedules/adamw_160k.py']

data_root = 'data/camvid'
classes = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'cyclist')
void = len(classes)
crop_size = (192, 192)
iters = 1000
channels = (16, 32, 64, 128)

model = dict(
    data_preprocessor=dict(size=crop_size, seg_pad_val=void),
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 2, 1), channels=channels),
        width_factor=1.,
        drop_path_rate=0.,
        init_cfg=dict(type='Xavier', layer=['Conv2d', 'Linear'], distribution='uniform')),
    decode_head=dict(in_channels=channels, channels=32, num_classes=len(classes), ignore_index=void),
    auxiliary_head=dict(in_channels=channels[2], channels=32, num_classes=len(classes), ignore_index=void),
    test_cfg=dict(_delete_=True, mode='whole'))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75, ignore_index=void),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
dataset = dict(type='BaseSegDataset', data_root=data_root, metainfo=dict(classes=classes), img_suffix='.jpg', seg_map_suffix='.png')
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(dataset, data_prefix=dict(img_path='img/train', seg_map_path='ann/train'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, data_prefix=dict(img_path='img/test', seg_map_path='ann/test'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index=void)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=iters, by_epoch=False),
]
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200, max_keep_ckpts=1))
randomness = dict(seed=0)
