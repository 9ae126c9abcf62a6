"""A drop-in for ``depthwise_conv2d_implicit_gemm``, the CUDA extension for large kernels of SLaK, RepLKNet, UniRepLKNet and others.

That extension is compiled from MegEngine's fork of CUTLASS, which current CUDA and torch versions refuse. This module has its names
and signatures, on this package's own convolution: CPU and GPU, any odd kernel, nothing to compile.
"""
import sys
import warnings
from typing import Sequence, Union

import torch
from torch import Tensor, nn

from .models.ops import large_kernel_conv2d

__all__ = ['DepthWiseConv2dImplicitGEMM', 'provide_implicit_gemm']
NAME = 'depthwise_conv2d_implicit_gemm'


def _convolve(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    if any(size % 2 == 0 for size in weight.shape[2:]):
        raise ValueError(f'A kernel must have odd sides, got {tuple(weight.shape[2:])}: an even one has no centre.')
    with torch.autocast(x.device.type, enabled=False):  # as the extension's functions have it
        return large_kernel_conv2d(x.to(dtype), [weight.to(dtype)])


class _DepthWiseConv2dImplicitGEMMFP32:
    """What the extension's autograd function of this name computes, by the same call: ``.apply(x, w)``."""

    @staticmethod
    def apply(x: Tensor, w: Tensor) -> Tensor:
        """Depthwise convolution in float32, stride 1, padded to keep the size.

        Args:
            x (Tensor): Maps of shape (N, C, H, W).
            w (Tensor): Kernels of shape (C, 1, kH, kW), both sides odd.

        Returns:
            Tensor: Shape (N, C, H, W), float32.

        Raises:
            ValueError: A kernel has an even side.
        """
        return _convolve(x, w, torch.float32)


class _DepthWiseConv2dImplicitGEMMFP16:
    """The same in float16."""

    @staticmethod
    def apply(x: Tensor, w: Tensor) -> Tensor:
        """Like that of :class:`_DepthWiseConv2dImplicitGEMMFP32`; the result is float16."""
        return _convolve(x, w, torch.float16)


class DepthWiseConv2dImplicitGEMM(nn.Conv2d):
    """Depthwise convolution with a large kernel, stride 1, padded to keep the size; computed in the type of its input.

    Args:
        channels (int): Number of channels, C.
        kernel (int | Sequence[int]): Size of the kernel, or its height and width; odd.
        bias (bool): Whether there is a bias. Defaults to False.

    Raises:
        ValueError: The kernel has an even side.
    """

    def __init__(self, channels: int, kernel: Union[int, Sequence[int]], bias: bool = False):
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        if height % 2 == 0 or width % 2 == 0:
            raise ValueError(f'A kernel must have odd sides, got {kernel}: an even one has no centre.')
        padding = height // 2, width // 2  # the extension leaves it at 0, though it pads: tools that read it were misled
        super().__init__(channels, channels, (height, width), padding=padding, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), any floating type."""
        x = _convolve(x, self.weight, x.dtype)
        return x if self.bias is None else x + self.bias.to(x).view(1, -1, 1, 1)


def provide_implicit_gemm() -> None:
    """Makes ``import depthwise_conv2d_implicit_gemm`` find this module, in this process. Call it before the model's code is imported.

    A CUDA extension of that name is not used from then on. Warns if one was imported before: what took its classes keeps them.
    """
    module = sys.modules.get(NAME)
    if module is not None and module is not sys.modules[__name__]:
        warnings.warn(f'{NAME} was imported before provide_implicit_gemm(): models that took its classes keep them. Call '
                      'slak_mm.provide_implicit_gemm() first.', stacklevel=2)
    sys.modules[NAME] = sys.modules[__name__]
