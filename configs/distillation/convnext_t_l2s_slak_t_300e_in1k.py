# SLaK-T teaches ConvNeXt-T ("Are Large Kernels Better Teachers than Transformers for ConvNets?", ICML 2023: 83.1%). The loss is NKD
# alone, as in the authors' code; the schedule is SLaK's. So is the form of the student, as of their files: 7x7 kernels without
# bias, and a batch norm after each. What is trained, saved and tested is the student alone.
_base_ = [
    '../_base_/models/slak.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/in1k_300e.py',
    'mmpretrain::_base_/default_runtime.py',
]
student = dict(
    _base_.model,
    backbone=dict(_base_.model.backbone, kernel_sizes=(7, 7, 7, 7), width_factor=1.0, large_kernel='naive'),
    head=dict(_base_.model.head, in_channels=768))
teacher = dict(
    type='ImageClassifier',
    backbone=dict(type='slak_mm.SLaK', arch='tiny'),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=998),
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/slak_t_300e_in1k.pth'))

model = dict(
    _delete_=True,
    type='slak_mm.DistilledClassifier',
    student=student,
    teacher=teacher,
    losses=[dict(type='slak_mm.NKDLoss')],
    task_weight=0.)
# counts iterations, not optimizer steps
custom_hooks = [
    dict(
        type='EMAHook',
        momentum=1e-4,
        update_buffers=True,
        evaluate_on_origin=True,
        interval=_base_.optim_wrapper.accumulative_counts,
        priority='ABOVE_NORMAL')
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
