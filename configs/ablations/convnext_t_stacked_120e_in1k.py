# Ten 3x3 kernels in sequence reach 21 pixels.
_base_ = 'convnext_t_120e_in1k.py'

model = dict(backbone=dict(kernel_sizes=(21, 21, 21, 21), large_kernel='stacked'))
