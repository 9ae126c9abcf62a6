# The toy data of tools/make_toy_data.py in COCO's layout, and a backbone, FPN and RPN of its size. The names are its own, so that
# it can stand beside a config that has data already: `train_dataloader = dict(_delete_=True, **_base_.toy_train_dataloader)`.
toy_root = 'data/toy_coco/'
toy_classes = ('person', 'bicycle', 'car', 'airplane', 'bus', 'boat', 'bottle', 'chair', 'couch', 'tv')
toy_arch = dict(depths=(1, 1, 2, 1), channels=(16, 32, 64, 128))
toy_widths = [20, 41, 83, 166]
toy_width = 48
toy_rcnn = dict(
    neck=dict(in_channels=toy_widths, out_channels=toy_width),
    rpn_head=dict(in_channels=toy_width, feat_channels=toy_width, anchor_generator=dict(scales=[4])),
    train_cfg=dict(rpn=dict(sampler=dict(num=64)), rpn_proposal=dict(nms_pre=200, max_per_img=100)),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)))
toy_scale = (160, 128)

toy_train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=toy_root,
        metainfo=dict(classes=toy_classes),
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=toy_scale, keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ]))
toy_val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=toy_root,
        metainfo=dict(classes=toy_classes),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=toy_scale, keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
        ]))
toy_evaluator = dict(type='CocoMetric', ann_file=toy_root + 'annotations/instances_val2017.json', metric=['bbox', 'segm'])

toy_epochs = 40
toy_param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=20, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=toy_epochs, begin=0, end=toy_epochs, by_epoch=True, convert_to_iter_based=True),
]
toy_train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=toy_epochs, val_interval=toy_epochs)
toy_hooks = dict(logger=dict(interval=15), checkpoint=dict(interval=toy_epochs, by_epoch=True))
