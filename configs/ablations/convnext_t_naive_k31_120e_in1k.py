_base_ = 'convnext_t_120e_in1k.py'

model = dict(backbone=dict(kernel_sizes=(31, 29, 27, 13)))
