# Kernels that reach (55, 49, 49, 13) pixels, by a dilation of 3.
_base_ = 'convnext_t_120e_in1k.py'

model = dict(backbone=dict(kernel_sizes=(19, 17, 17, 5), large_kernel='dilated'))
