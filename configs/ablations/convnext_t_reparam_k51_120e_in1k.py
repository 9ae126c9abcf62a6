_base_ = 'convnext_t_120e_in1k.py'

model = dict(backbone=dict(kernel_sizes=(51, 49, 47, 13), large_kernel='reparam'))
