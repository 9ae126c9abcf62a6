from .backend import set_backend, use_backend
from .depthwise import merge
from .large_kernel import large_kernel_branches, large_kernel_conv2d
from .mlp import add, layer_norm_2d, norm_mlp

__all__ = ['add', 'large_kernel_branches', 'large_kernel_conv2d', 'layer_norm_2d', 'merge', 'norm_mlp', 'set_backend', 'use_backend']
