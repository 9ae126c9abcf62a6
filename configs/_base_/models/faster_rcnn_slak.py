_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='slak_mm.SLaK',
        arch='tiny',
        drop_path_rate=0.2,
        layer_scale_init_value=1.0,
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False),
    neck=dict(in_channels=[124, 249, 499, 998]))
