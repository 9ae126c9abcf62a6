# The light Hamburger on the toy data, from scratch, and narrower.
_base_ = ['../ham_slak_t_160k_ade20k.py', '../_base_/datasets/toy_ade20k.py']

model = dict(
    data_preprocessor=dict(size=_base_.toy_crop),
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    decode_head=dict(
        in_channels=_base_.toy_widths[1:], channels=64, ham_channels=64, num_classes=len(_base_.toy_classes)))

pretrained = None
train_dataloader = dict(_delete_=True, **_base_.toy_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.toy_val_dataloader)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(decay_rate=1.))
train_cfg = dict(_delete_=True, **_base_.toy_train_cfg)
param_scheduler = _base_.toy_param_scheduler
default_hooks = _base_.toy_hooks
custom_hooks = []
randomness = dict(seed=0)
