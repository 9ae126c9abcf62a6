_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'dense_slak.py']

model = dict(backbone=dict(_base_.slak, drop_path_rate=0.2), neck=dict(in_channels=_base_.widths))
