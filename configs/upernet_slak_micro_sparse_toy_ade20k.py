# A segmentor whose weights are sparse, and adapt, from the first step: smaller than the micro one, for tools/chaos.py and the like.
_base_ = 'upernet_slak_micro_toy_ade20k.py'

model = dict(
    backbone=dict(arch=dict(channels=(8, 12, 16, 20)), drop_path_rate=0.3),
    decode_head=dict(in_channels=[10, 15, 20, 26], channels=8),
    auxiliary_head=dict(in_channels=20, channels=8))
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [
    dict(type='slak_mm.SparsityHook', interval=3),
    dict(
        type='EMAHook',
        ema_type='slak_mm.SparseExponentialMovingAverage',
        momentum=1e-2,
        update_buffers=True,
        priority='ABOVE_NORMAL'),
]
train_cfg = dict(max_iters=120, val_interval=60)
default_hooks = dict(checkpoint=dict(interval=3, max_keep_ckpts=2))
