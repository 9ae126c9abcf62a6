# DINO on the toy data, from scratch: fewer queries, layers and maps.
_base_ = ['../dino_slak_t_12e_coco.py', '../_base_/datasets/toy_coco.py']
# 256 wide, as it is, since mmdet's decoder takes that for granted; without the largest map, which takes most of the time
attention = dict(num_levels=3)
ffn = dict(feedforward_channels=256)

model = dict(
    num_queries=40,
    num_feature_levels=3,
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0., out_indices=(2, 3)),
    neck=dict(in_channels=_base_.toy_widths[2:], num_outs=3),
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
    decoder=dict(num_layers=2, layer_cfg=dict(cross_attn_cfg=attention, ffn_cfg=ffn)),
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
epochs = 30  # or it would take eight minutes on two cores
train_cfg = dict(_delete_=True, **dict(_base_.toy_train_cfg, max_epochs=epochs, val_interval=epochs))
param_scheduler = [_base_.toy_param_scheduler[0], dict(_base_.toy_param_scheduler[1], T_max=epochs, end=epochs)]
default_hooks = dict(_base_.toy_hooks, checkpoint=dict(interval=epochs))
custom_hooks = []
randomness = dict(seed=0)
