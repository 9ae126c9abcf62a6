# DINO on the toy data, from scratch: fewer queries and layers, and narrower.
_base_ = ['../dino_slak_t_12e_coco.py', '../_base_/datasets/toy_coco.py']
width = 64
layer = dict(
    self_attn_cfg=dict(embed_dims=width),
    cross_attn_cfg=dict(embed_dims=width),
    ffn_cfg=dict(embed_dims=width, feedforward_channels=256))

model = dict(
    num_queries=40,
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    neck=dict(in_channels=_base_.toy_widths[1:], out_channels=width),
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=layer['self_attn_cfg'], ffn_cfg=layer['ffn_cfg'])),
    decoder=dict(num_layers=2, layer_cfg=layer),
    positional_encoding=dict(num_feats=width // 2),
    bbox_head=dict(num_classes=len(_base_.toy_classes)),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=40)),
    test_cfg=dict(max_per_img=40))

pretrained = None
train_dataloader = dict(_delete_=True, **_base_.toy_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.toy_val_dataloader)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, **dict(_base_.toy_evaluator, metric='bbox'))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.), paramwise_cfg=dict(decay_rate=1.))
train_cfg = dict(_delete_=True, **_base_.toy_train_cfg)
param_scheduler = _base_.toy_param_scheduler
default_hooks = _base_.toy_hooks
custom_hooks = []
randomness = dict(seed=0)
