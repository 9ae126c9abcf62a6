# Mask2Former on the toy data, classes, from scratch: fewer queries, layers and points, and narrower.
_base_ = ['../mask2former_slak_t_160k_ade20k.py', '../_base_/datasets/toy_ade20k.py']
width = 64
encoder_layer = dict(self_attn_cfg=dict(embed_dims=width), ffn_cfg=dict(embed_dims=width, feedforward_channels=256))
decoder_layer = dict(encoder_layer, cross_attn_cfg=dict(embed_dims=width))

model = dict(
    data_preprocessor=dict(size=_base_.toy_crop),
    backbone=dict(arch=dict(_delete_=True, **_base_.toy_arch), drop_path_rate=0.),
    decode_head=dict(
        in_channels=_base_.toy_widths,
        feat_channels=width,
        out_channels=width,
        num_classes=len(_base_.toy_classes),
        num_queries=30,
        pixel_decoder=dict(
            encoder=dict(num_layers=2, layer_cfg=encoder_layer), positional_encoding=dict(num_feats=width // 2)),
        positional_encoding=dict(num_feats=width // 2),
        transformer_decoder=dict(num_layers=3, layer_cfg=decoder_layer),
        loss_cls=dict(class_weight=[1.] * len(_base_.toy_classes) + [.1]),
        train_cfg=dict(num_points=1024)))

pretrained = None
train_dataloader = dict(_delete_=True, **_base_.toy_train_dataloader)
val_dataloader = dict(_delete_=True, **_base_.toy_val_dataloader)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.), paramwise_cfg=dict(decay_rate=1.))
train_cfg = dict(_delete_=True, **_base_.toy_train_cfg)
param_scheduler = _base_.toy_param_scheduler
default_hooks = _base_.toy_hooks
custom_hooks = []
randomness = dict(seed=0)
