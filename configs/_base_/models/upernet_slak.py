_base_ = ['mmseg::_base_/models/upernet_swin.py', 'dense_slak.py']

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_base_.slak, drop_path_rate=0.4),
    decode_head=dict(in_channels=_base_.widths, num_classes=150),
    auxiliary_head=dict(in_channels=_base_.widths[2], num_classes=150),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
