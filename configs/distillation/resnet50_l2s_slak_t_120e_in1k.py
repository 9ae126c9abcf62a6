# SLaK-T teaches ResNet-50 in 120 epochs: .9 times cross-entropy and .1 times KD at a temperature of 3, as in the authors' script.
_base_ = 'convnext_t_l2s_slak_t_300e_in1k.py'

student = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(3, ), style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=2048, loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
model = dict(
    student=student,
    losses=[dict(type='slak_mm.KDLoss', temperature=3.0, weight=0.1)],
    task_weight=0.9)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=120)]
train_cfg = dict(max_epochs=120)
