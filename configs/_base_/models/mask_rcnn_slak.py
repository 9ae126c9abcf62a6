_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'dense_slak.py']

model = dict(backbone=dict(_base_.slak, drop_path_rate=0.4), neck=dict(in_channels=_base_.widths))
