# A micro SLaK on the toy data of tools/make_toy_data.py: what `make demo` trains, in about two minutes on two CPU cores.
_base_ = [
    '_base_/models/upernet_slak.py',
    'mmseg::_base_/datasets/ade20k.py',
    '_base_/datasets/toy_ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '_base_/schedules/adamw_160k.py',
]
data_root = _base_.toy_root
crop_size = _base_.toy_crop
iters = 600
classes = _base_.toy_classes

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    decode_head=dict(in_channels=_base_.toy_widths, channels=48, num_classes=len(classes)),
    auxiliary_head=dict(in_channels=_base_.toy_widths[2], channels=32, num_classes=len(classes)),
    test_cfg=dict(crop_size=crop_size, stride=(96, 96)))

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

optimizer = dict(lr=2e-3)
optim_wrapper = dict(optimizer=optimizer)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=iters, by_epoch=False),
]
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=iters))
randomness = dict(seed=0)
