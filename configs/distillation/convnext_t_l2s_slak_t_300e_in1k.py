# SLaK-T teaches ConvNeXt-T ("Are Large Kernels Better Teachers than Transformers for ConvNets?", ICML 2023: 83.1%). The loss is NKD
# alone, as in the authors' code; the schedule is SLaK's. What is trained, saved and tested is a plain ConvNeXt-T.
_base_ = [
    'mmpretrain::_base_/models/convnext/convnext-tiny.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/in1k_300e.py',
    'mmpretrain::_base_/default_runtime.py',
]
teacher = dict(
    type='ImageClassifier',
    backbone=dict(type='slak_mm.SLaK', arch='tiny'),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=998),
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/slak_t_300e_in1k.pth'))

model = dict(
    _delete_=True,
    type='slak_mm.DistilledClassifier',
    student=_base_.model,
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
