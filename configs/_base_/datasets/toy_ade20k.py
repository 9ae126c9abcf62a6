# The toy data of tools/make_toy_data.py in ADE20K's layout, and a backbone of its size, under names of their own, as in toy_coco.py.
toy_root = 'data/toy_ade20k'
toy_classes = ('wall', 'sky', 'grass', 'person', 'bicycle', 'car', 'airplane', 'bus', 'boat', 'bottle', 'chair', 'sofa',
               'television receiver')
toy_arch = dict(depths=(1, 1, 2, 1), channels=(16, 32, 64, 128))
toy_widths = [20, 41, 83, 166]
toy_crop = (128, 128)

toy_train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset',
        data_root=toy_root,
        metainfo=dict(classes=toy_classes),
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='RandomResize', scale=(240, 192), ratio_range=(0.75, 1.25), keep_ratio=True),
            dict(type='RandomCrop', crop_size=toy_crop, cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ]))
toy_val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ADE20KDataset',
        data_root=toy_root,
        metainfo=dict(classes=toy_classes),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ]))

toy_iters = 600
toy_param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=toy_iters, by_epoch=False),
]
toy_train_cfg = dict(type='IterBasedTrainLoop', max_iters=toy_iters, val_interval=toy_iters)
toy_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=toy_iters, by_epoch=False))
