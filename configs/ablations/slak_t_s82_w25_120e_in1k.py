_base_ = '../slak_t_120e_in1k.py'

model = dict(backbone=dict(width_factor=2.5), head=dict(in_channels=1920))
custom_hooks = [dict(_base_.custom_hooks[0], sparsity=0.82), _base_.custom_hooks[1]]
