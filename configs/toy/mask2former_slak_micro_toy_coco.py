# Mask2Former on the toy data, instances, from scratch: fewer queries, layers and points, and narrower.
_base_ = ['../mask2former_slak_t_50e_coco.py', '../_base_/datasets/toy_coco.py']
width = 64
encoder_layer = dict(self_attn_cfg=dict(embed_dims=width), ffn_cfg=dict(embed_dims=width, feedforward_channels=256))
decoder_layer = dict(encoder_layer, cross_attn_cfg=dict(embed_dims=width))

model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    panoptic_head=dict(
        in_channels=_base_.toy_widths,
        feat_channels=width,
        out_channels=width,
        num_things_classes=len(_base_.toy_classes),
        num_queries=30,
        pixel_decoder=dict(
            encoder=dict(num_layers=2, layer_cfg=encoder_layer), positional_encoding=dict(num_feats=width // 2)),
        positional_encoding=dict(num_feats=width // 2),
        transformer_decoder=dict(num_layers=3, layer_cfg=decoder_layer),
        loss_cls=dict(class_weight=[1.] * len(_base_.toy_classes) + [.1])),
    panoptic_fusion_head=dict(num_things_classes=len(_base_.toy_classes)),
    train_cfg=dict(num_points=1024),
    test_cfg=dict(max_per_image=20))

pretrained = None
train_dataloader = dict(_delete_=True, **_base_.toy_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.toy_val_dataloader)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, **_base_.toy_evaluator)
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.), paramwise_cfg=dict(decay_rate=1.))
train_cfg = dict(_delete_=True, **_base_.toy_train_cfg)
param_scheduler = _base_.toy_param_scheduler
default_hooks = _base_.toy_hooks
log_processor = dict(by_epoch=True)
custom_hooks = []
randomness = dict(seed=0)
