# ConvNeXt-T of the paper's ablations (Tables 1, 2, 14): dense, trained as SLaK. As in the authors' code, a depthwise convolution has
# no bias and a batch norm after it; ConvNeXt's own has a bias and no norm: 28,589,128 parameters instead of 28,595,752.
_base_ = '../slak_t_120e_in1k.py'

model = dict(
    backbone=dict(kernel_sizes=(7, 7, 7, 7), width_factor=1.0, large_kernel='naive'),
    head=dict(in_channels=768))
# without masks to follow, the average counts iterations instead of optimizer steps
custom_hooks = [dict(_base_.custom_hooks[1], interval=_base_.optim_wrapper.accumulative_counts)]
