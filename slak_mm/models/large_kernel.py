from functools import reduce
from operator import add
from typing import Dict, Tuple

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from .ops import large_kernel_branches, large_kernel_conv2d, merge

FORMS = ('decomposed', 'reparam', 'naive')


def branch_shapes(form: str, kernel_size: int, small_kernel_size: int) -> Dict[str, Tuple[int, int]]:
    """Name and (height, width) of each parallel convolution of a large-kernel layer, M = ``kernel_size``, N = ``small_kernel_size``.

    Args:
        form (str): ``'decomposed'``: ``tall`` MxN, ``wide`` NxM and ``small`` NxN (paper, section 4). ``'reparam'``: ``full`` MxM and
            ``small`` NxN (RepLKNet's; official ``lkb_origin``). ``'naive'``: ``full`` MxM alone; N is not used.
        kernel_size (int): M, odd.
        small_kernel_size (int): N, odd, not above M. At N = M there is no ``small`` branch, as in the official code.

    Raises:
        ValueError: An unknown form, an even or non-positive size, or N > M.
    """
    if form not in FORMS:
        raise ValueError(f'large_kernel={form!r} is unknown; choose from {FORMS}.')
    sizes = (kernel_size, ) if form == 'naive' else (kernel_size, small_kernel_size)
    for size in sizes:
        if not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f'A kernel size must be a positive odd integer, got {size!r}: an even kernel has no centre, '
                             'so its output would be shifted by half a pixel.')
    if form == 'naive':
        return dict(full=(kernel_size, kernel_size))
    if small_kernel_size > kernel_size:
        raise ValueError(f'small_kernel_size={small_kernel_size} exceeds the large kernel {kernel_size}: choose an odd '
                         f"small_kernel_size <= {kernel_size}, or large_kernel='naive' to have no small kernel.")
    if form == 'decomposed':
        shapes = dict(tall=(kernel_size, small_kernel_size), wide=(small_kernel_size, kernel_size))
    else:
        shapes = dict(full=(kernel_size, kernel_size))
    if small_kernel_size < kernel_size:
        shapes['small'] = (small_kernel_size, small_kernel_size)
    return shapes


def has_hooks(module: nn.Module) -> bool:
    """Whether someone waits for the module to be called, so that its function alone would not do."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


class DepthwiseConvBN(nn.Module):
    """Depthwise convolution, then batch norm; one convolution with bias once :meth:`fuse` was called (or ``deploy=True``)."""

    def __init__(self, channels: int, kernel_size: Tuple[int, int], norm_cfg: dict, deploy: bool = False):
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels, bias=deploy)
        self.bn = None if deploy else build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.bn is None else self.bn(x)

    @property
    def is_linear(self) -> bool:
        """Whether the branch is one convolution: it has no norm, or a batch norm that normalises by its running statistics."""
        return self.bn is None or isinstance(self.bn, _BatchNorm) and not self.bn.training and self.bn.track_running_stats

    def folded(self) -> Tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that the branch is with running statistics."""
        bn = self.bn
        if bn is None:
            return self.conv.weight, self.conv.bias
        if not isinstance(bn, _BatchNorm):
            raise TypeError(f'{type(bn).__name__} cannot be folded into a convolution, only batch norms can: use the model as it is.')
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        return self.conv.weight * scale[:, None, None, None], bn.bias - bn.running_mean * scale

    def fuse(self) -> None:
        """Folds the batch norm's running statistics into the convolution. Done already: nothing happens."""
        if self.bn is not None:
            self.conv.weight, self.conv.bias = (nn.Parameter(tensor.detach()) for tensor in self.folded())
            self.bn = None


class LargeKernel(nn.Module):
    """A large-kernel layer: the sum of parallel depthwise convolutions, each followed by its own batch norm.

    The normalisation before the sum is what makes large kernels trainable (paper, section 4.1). Where it is linear (batch norms
    frozen, in evaluation, or merged) the layer is one call of :func:`~slak_mm.models.ops.large_kernel_conv2d`.

    Args:
        channels (int): Number of channels, C.
        kernel_size (int): The longer edge M.
        small_kernel_size (int): The shorter edge N, also the size of the small kernel.
        form (str): See :func:`branch_shapes`.
        norm_cfg (dict): Norm after each branch.
        deploy (bool): Build the merged form that :meth:`switch_to_deploy` makes. Defaults to False.
    """

    def __init__(self, channels: int, kernel_size: int, small_kernel_size: int, form: str, norm_cfg: dict, deploy: bool = False):
        super().__init__()
        for name, shape in branch_shapes(form, kernel_size, small_kernel_size).items():
            if not (deploy and name == 'small'):
                self.add_module(name, DepthwiseConvBN(channels, shape, norm_cfg, deploy))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        branches = list(self.children())
        if any(has_hooks(module) for branch in branches for module in branch.modules()):
            return reduce(add, (branch(x) for branch in branches))
        if all(branch.is_linear for branch in branches):
            weights, biases = zip(*(branch.folded() for branch in branches))
            return large_kernel_conv2d(x, weights, sum(biases))
        outs = large_kernel_branches(x, [branch.conv.weight for branch in branches])
        return reduce(add, (branch.bn(out) for branch, out in zip(branches, outs)))

    def switch_to_deploy(self) -> None:
        """Folds each batch norm and adds the small kernel into the centre of the first large one: outputs stay equal."""
        for branch in self.children():
            branch.fuse()
        if not hasattr(self, 'small'):
            return
        small, large = self.small.conv, next(self.children()).conv
        large.weight.data, = merge([large.weight.data, small.weight.data])
        large.bias.data += small.bias.data
        del self.small
