_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', 'dense_slak.py']

model = dict(
    backbone=dict(_base_.slak, drop_path_rate=0.4),
    neck=dict(in_channels=_base_.widths),
    roi_head=dict(bbox_head=[
        dict(
            head,
            type='ConvFCBBoxHead',
            num_shared_convs=4,
            num_shared_fcs=1,
            conv_out_channels=256,
            norm_cfg=dict(type='SyncBN', requires_grad=True),
            reg_class_agnostic=False,
            reg_decoded_bbox=True,
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0)) for head in _base_.model.roi_head.bbox_head
    ]))
