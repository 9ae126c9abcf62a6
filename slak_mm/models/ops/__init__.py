from .depthwise import merge
from .large_kernel import large_kernel_branches, large_kernel_conv2d
from .mlp import scaled_mlp

__all__ = ['large_kernel_branches', 'large_kernel_conv2d', 'merge', 'scaled_mlp']
