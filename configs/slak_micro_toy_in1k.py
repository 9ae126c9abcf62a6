# A micro SLaK, trained sparse from scratch on `tools/make_toy_data.py imagenet data/toy_imagenet` with all that the paper's training
# has: SNIP, adaptation, a sparse average, mixup and CutMix, accumulation. For trying things out, tools/chaos.py among them.
_base_ = 'slak_t_300e_in1k.py'

data_root = 'data/toy_imagenet'
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 2, 1), channels=(8, 12, 16, 20))),
    head=dict(in_channels=26))
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(data_root=data_root))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [
    dict(type='slak_mm.SparsityHook', interval=5),
    dict(
        type='EMAHook',
        ema_type='slak_mm.SparseExponentialMovingAverage',
        momentum=1e-2,
        update_buffers=True,
        evaluate_on_origin=True,
        priority='ABOVE_NORMAL'),
]
train_cfg = dict(max_epochs=10)
default_hooks = dict(logger=dict(interval=8))
randomness = dict(seed=0)
