from functools import reduce
from numbers import Integral
from operator import add
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model.utils import _BatchNormXd
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import Tensor

from .bypass import is_observed, is_plain_tensor, is_untouched, settings
from .ops import large_kernel_branches, large_kernel_conv2d, merge

PARALLEL_FORMS = ('decomposed', 'reparam', 'naive')
FORMS = (*PARALLEL_FORMS, 'sequential', 'dilated', 'stacked')
DILATION = 3
BRANCHES = 'tall', 'wide', 'full', 'dilated', 'sequence', 'small'
# mmengine's are what SyncBN is, and becomes in one process; of other subclasses nobody knows what they compute
BATCH_NORMS = nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, _BatchNormXd


def branch_shapes(form: str, kernel_size: int, small_kernel_size: int) -> Dict[str, Tuple[int, int]]:
    """Name and (height, width) of each convolution of a large-kernel layer, M = ``kernel_size``, N = ``small_kernel_size``.

    Args:
        form (str): What is summed. ``'decomposed'``: ``tall`` MxN, ``wide`` NxM and ``small`` NxN (paper, section 4). ``'reparam'``:
            ``full`` MxM and ``small`` NxN (RepLKNet's; official ``lkb_origin``). ``'naive'``: ``full`` MxM alone; N is not used.
            Three that the paper compares with (appendix I), each next to a ``small`` NxN: ``'sequential'``: MxN, then NxM
            (``sequence.0`` and ``sequence.1``), which reach M + N - 1 pixels. ``'dilated'``: ``dilated`` MxM with dilation 3, which
            reaches 3M - 2. ``'stacked'``: as many 3x3 in sequence as reach M pixels, (M - 1) / 2; the paper's ten are M = 21.
        kernel_size (int): M, odd; at least 3 if stacked.
        small_kernel_size (int): N, odd, not above M (above 3M - 2 if dilated). At that limit there is no ``small`` branch, as in the
            official code.

    Raises:
        ValueError: An unknown form, an even or non-positive size, too large an N, or nothing to stack.
    """
    if not isinstance(form, str) or form not in FORMS:
        raise ValueError(f'large_kernel={form!r} is unknown; choose from {FORMS}.')
    sizes = (kernel_size, ) if form == 'naive' else (kernel_size, small_kernel_size)
    for size in sizes:
        if not isinstance(size, Integral) or size < 1 or size % 2 == 0:
            raise ValueError(f'A kernel size must be a positive odd integer, got {size!r}: an even kernel has no centre, '
                             'so its output would be shifted by half a pixel.')
    if form == 'naive':
        return dict(full=(kernel_size, kernel_size))
    limit = DILATION * (kernel_size - 1) + 1 if form == 'dilated' else kernel_size
    if small_kernel_size > limit:
        raise ValueError(f'small_kernel_size={small_kernel_size} exceeds the large kernel {limit}: choose an odd '
                         f"small_kernel_size <= {limit}, or large_kernel='naive' to have no small kernel.")
    if form == 'stacked' and kernel_size < 3:
        raise ValueError(f"large_kernel='stacked' stacks 3x3 kernels, so the large kernel must be at least 3, got {kernel_size}.")
    tall, wide, square = (kernel_size, small_kernel_size), (small_kernel_size, kernel_size), (kernel_size, kernel_size)
    shapes = {
        'decomposed': dict(tall=tall, wide=wide),
        'reparam': dict(full=square),
        'sequential': {'sequence.0': tall, 'sequence.1': wide},
        'dilated': dict(dilated=square),
        'stacked': {f'sequence.{i}': (3, 3) for i in range(kernel_size // 2)},
    }[form]
    if small_kernel_size < limit:
        shapes['small'] = (small_kernel_size, small_kernel_size)
    return shapes


class DepthwiseConvBN(nn.Module):
    """Depthwise convolution, then batch norm; one convolution with bias once :meth:`fuse` was called (or ``deploy=True``).

    With ``filters`` it is of as many channels alone, which a buffer ``index`` (filters,) names; the output's others are zero.
    """

    index: Optional[Tensor]

    def __init__(self, channels: int, kernel_size: Tuple[int, int], norm_cfg: dict, deploy: bool = False, dilation: int = 1,
                 filters: Optional[int] = None):
        super().__init__()
        self.register_buffer('index', None if filters is None else torch.arange(filters))
        channels = filters or channels
        padding = dilation * (kernel_size[0] // 2), dilation * (kernel_size[1] // 2)
        self.dilation = dilation
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=padding, dilation=dilation, groups=channels, bias=deploy)
        self.built = settings(self.conv)
        self.bn: Optional[nn.Module] = None if deploy else build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(self.pick(x))
        return self.spread(out if self.bn is None else self.bn(out), x)

    def pick(self, x: Tensor) -> Tensor:
        """The channels of (N, C, H, W) that have a filter."""
        return x if self.index is None else x.index_select(1, self.index)

    def spread(self, out: Tensor, x: Tensor) -> Tensor:
        """The inverse of :meth:`pick`: zeros in the other channels of ``x``."""
        return out if self.index is None else torch.zeros_like(x, dtype=out.dtype).index_copy(1, self.index, out)

    def keep(self, alive: Tensor) -> None:
        """Leaves the channels (filters,) that ``alive`` names, sorted, and no others."""
        self.index = alive if self.index is None else self.index[alive]
        for layer in (self.conv, self.bn):
            for name, value in () if layer is None else (*layer.named_parameters(), *layer.named_buffers()):
                if value.ndim:
                    part = value.detach()[alive]
                    setattr(layer, name, nn.Parameter(part, value.requires_grad) if isinstance(value, nn.Parameter) else part)
        conv, bn = self.conv, self.bn
        conv.in_channels = conv.out_channels = conv.groups = len(alive)
        if bn is not None:
            bn.num_features = len(alive)  # type: ignore[assignment]
        self.built = settings(conv)

    def widen(self, channels: int) -> None:
        """Gives a fused convolution a filter for each of ``channels``: zeros where it had none, and behind its last one."""
        conv: Any = self.conv
        index = torch.arange(len(conv.weight), device=conv.weight.device) if self.index is None else self.index
        for name in ('weight', 'bias'):
            old = getattr(conv, name).detach()
            setattr(conv, name, nn.Parameter(old.new_zeros(channels, *old.shape[1:]).index_copy(0, index, old)))
        self.index = None
        conv.in_channels = conv.out_channels = conv.groups = channels
        self.built = settings(conv)

    @property
    def is_linear(self) -> bool:
        """Whether the norm is linear: there is none, or a batch norm that normalises by its running statistics."""
        bn: Any = self.bn
        return bn is None or type(bn) is nn.Identity or type(bn) in BATCH_NORMS and not bn.training and bn.running_mean is not None

    @property
    def is_plain(self) -> bool:
        """Whether the convolution is as it was built, but for its weight, and a bias."""
        conv: Any = self.conv
        return (is_untouched(conv, nn.Conv2d, 'weight') and settings(conv) == self.built
                and (conv.bias is None or is_plain_tensor(conv.bias)))

    @property
    def may_be_bypassed(self) -> bool:
        """Whether :func:`conv_bn` computes what a call does."""
        if not is_untouched(self, DepthwiseConvBN) or not self.is_plain:
            return False
        bn: Any = self.bn
        if bn is None or not self.is_linear:  # a norm that is not linear is called, a bias before it would be lost
            return bn is None or self.conv.bias is None
        return is_untouched(bn, type(bn))

    def folded(self) -> Tuple[Tensor, Optional[Tensor]]:
        """Weight and bias of the convolution that the branch is, if its norm is linear."""
        bn: Any = self.bn
        if bn is None or type(bn) is nn.Identity:
            return self.conv.weight, self.conv.bias
        scale = torch.rsqrt(bn.running_var + bn.eps)
        if bn.weight is not None:
            scale = bn.weight * scale
        shift = -bn.running_mean if self.conv.bias is None else self.conv.bias - bn.running_mean
        bias = shift * scale if bn.bias is None else bn.bias + shift * scale
        dtype = self.conv.weight.dtype  # statistics may be kept in a wider one
        return (self.conv.weight * scale[:, None, None, None]).to(dtype), bias.to(dtype)

    def check_foldable(self) -> None:
        """Raises a TypeError if the branch is no convolution with a batch norm any more."""
        bn: Any = self.bn
        if bn is not None and type(bn) not in (*BATCH_NORMS, nn.Identity):
            raise TypeError(f'{type(bn).__name__} cannot be folded into a convolution, only batch norms can: use the model as it '
                            'is.')
        if type(bn) in BATCH_NORMS and bn.running_mean is None:
            raise TypeError('A batch norm without running statistics cannot be folded into a convolution: use the model as it is.')
        if type(self) is not DepthwiseConvBN or not self.is_plain:
            raise TypeError(f'The {type(self.conv).__name__} of a large-kernel layer was changed, wrapped or hooked, so it cannot be '
                            'merged with others: undo that first (remove_parametrizations, prune.remove, merge adapters ...), or use '
                            'the model as it is.')

    def fuse(self) -> 'DepthwiseConvBN':
        """Folds the batch norm's running statistics into the convolution; done already, nothing happens. Returns itself, to timm."""
        if self.bn is not None or self.conv.bias is None:
            weight, bias = self.folded()
            bias = torch.zeros_like(weight[:, 0, 0, 0]) if bias is None else bias
            self.conv.weight, self.conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
            self.bn = None
        return self


def dilated_conv2d(x: Tensor, weight: Tensor, bias: Optional[Tensor], dilation: int) -> Tensor:
    """Depthwise convolution with dilation, output as large as the input; by the plain one, on every ``dilation``-th row and column.

    Rows and columns that far apart do not meet the others, so each of the ``dilation ** 2`` interleaved maps is an image of its own.
    So a dilated kernel has the backends and the sliced-off taps of any other.

    Args:
        x (Tensor): Input of shape (N, C, H, W).
        weight (Tensor): Kernels of shape (C, 1, kH, kW), both sides odd.
        bias (Tensor, optional): Shape (C,).
        dilation (int): Distance between taps. With 1 this is :func:`~slak_mm.models.ops.large_kernel_conv2d`.

    Returns:
        Tensor: Shape (N, C, H, W).
    """
    if dilation == 1:
        return large_kernel_conv2d(x, [weight], bias)
    (n, c, h, w), d = x.shape, dilation
    rows, columns = (h + d - 1) // d, (w + d - 1) // d
    x = F.pad(x, (0, columns * d - w, 0, rows * d - h))
    x = x.view(n, c, rows, d, columns, d).permute(0, 3, 5, 2, 4, 1).reshape(-1, rows, columns, c).permute(0, 3, 1, 2)
    x = large_kernel_conv2d(x, [weight], bias)
    x = x.permute(0, 2, 3, 1).reshape(n, d, d, rows, columns, c).permute(0, 3, 1, 4, 2, 5).reshape(n, rows * d, columns * d, c)
    return x.permute(0, 3, 1, 2)[:, :, :h, :w]


def conv_bn(x: Tensor, branch: DepthwiseConvBN) -> Tensor:
    """``branch(x)`` by this package's convolution."""
    linear = branch.is_linear
    weight, bias = branch.folded() if linear else (branch.conv.weight, None)
    out = dilated_conv2d(branch.pick(x), weight, bias, branch.dilation)
    return branch.spread(out if linear or branch.bn is None else branch.bn(out), x)


class LargeKernel(nn.Module):
    """A large-kernel layer: depthwise convolutions, each followed by its own batch norm, side by side or in sequence.

    The normalisation before the sum is what makes large kernels trainable (paper, section 4.1). Where it is linear (batch norms
    frozen, in evaluation, or merged), parallel convolutions are one call of :func:`~slak_mm.models.ops.large_kernel_conv2d`. Appendix
    I is silent on norms: here every convolution has one, in a sequence too, as the authors' layer always pairs them.

    Args:
        channels (int): Number of channels, C.
        kernel_size (int): The longer edge M.
        small_kernel_size (int): The shorter edge N, also the size of the small kernel.
        form (str): See :func:`branch_shapes`.
        norm_cfg (dict): Norm after each convolution.
        deploy (bool): Build the merged form that :meth:`switch_to_deploy` makes. Defaults to False.
        filters (dict, optional): Of a parallel form, the number of filters in each convolution that has not one for each channel.
            Defaults to None: all have.

    Raises:
        ValueError: Kernels that :func:`branch_shapes` refuses, or filters of no such convolution, or of too many channels.
    """

    def __init__(self, channels: int, kernel_size: int, small_kernel_size: int, form: str, norm_cfg: dict, deploy: bool = False,
                 filters: Optional[Dict[str, int]] = None):
        super().__init__()
        self.is_parallel = form in PARALLEL_FORMS
        shapes, filters = branch_shapes(form, kernel_size, small_kernel_size), filters or {}
        if filters and not self.is_parallel or any(name not in shapes or not 0 < n < channels for name, n in filters.items()):
            raise ValueError(f'filters={filters!r} must be numbers from 1 to below {channels}, of convolutions among {[*shapes]} in '
                             f'one of the forms {PARALLEL_FORMS}.')
        for name, shape in shapes.items():
            if deploy and name == 'small' and self.is_parallel and not filters:
                continue
            conv = DepthwiseConvBN(channels, shape, norm_cfg, deploy, DILATION if name == 'dilated' else 1, filters.get(name))
            branch, _, step = name.partition('.')
            if not step:
                self.add_module(branch, conv)
            elif step == '0':
                self.add_module(branch, nn.Sequential(conv))
            else:
                getattr(self, branch).append(conv)

    @property
    def branches(self) -> List[Any]:
        """What is summed; no other module that someone hangs in here is."""
        return [child for name, child in self.named_children() if name in BRANCHES]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        branches = self.branches
        if is_observed(x) or not all(map(self._may_be_bypassed, branches)):
            return reduce(add, (branch(x) for branch in branches))
        if not self.is_parallel or self.has_filters_left_out:
            return reduce(add, (reduce(conv_bn, self._steps(branch), x) for branch in branches))
        if all(branch.is_linear for branch in branches):
            weights, biases = zip(*(branch.folded() for branch in branches))
            present = [bias for bias in biases if bias is not None]
            return large_kernel_conv2d(x, weights, reduce(add, present) if present else None)
        outs = large_kernel_branches(x, [branch.conv.weight for branch in branches])
        return reduce(add, (branch.bn(out) for branch, out in zip(branches, outs)))

    @property
    def has_filters_left_out(self) -> bool:
        """Whether a convolution has not a filter for each channel."""
        return any([getattr(branch, 'index', None) is not None for branch in self.branches])

    def _steps(self, branch: Any) -> List[Any]:
        """One after the other; only a form that has a sequence may have one."""
        return [*branch] if type(branch) is nn.Sequential and not self.is_parallel else [branch]

    def _may_be_bypassed(self, branch: nn.Module) -> bool:
        steps = self._steps(branch)
        return ((steps == [branch] or is_untouched(branch, nn.Sequential))
                and all([isinstance(step, DepthwiseConvBN) and step.may_be_bypassed for step in steps]))

    def check_mergeable(self) -> None:
        """Raises a TypeError if :meth:`switch_to_deploy` would not keep the outputs."""
        for branch in self.branches:
            for step in self._steps(branch):
                if not isinstance(step, DepthwiseConvBN):
                    raise TypeError(f'{type(step).__name__} took the place of a convolution with its norm in a large-kernel layer, '
                                    'and cannot be merged: use the model as it is.')
                step.check_foldable()

    def switch_to_deploy(self, channels: Optional[int] = None) -> None:
        """Folds each batch norm and, in the parallel forms, adds the small kernel into the centre of the first large one.

        Outputs stay equal. A sequence pads its map again before each convolution, so it is no single convolution at the border, and
        a dilated kernel has no taps where the small one needs them: these keep their convolutions, each with a bias. So do
        convolutions without a filter for each channel.

        Args:
            channels (int, optional): Give each convolution this many, zeros behind the true ones. Defaults to None: it keeps its own.

        Raises:
            TypeError: A norm is no batch norm, or a convolution was changed or wrapped. Nothing was merged.
        """
        self.check_mergeable()
        for module in self.modules():
            if isinstance(module, DepthwiseConvBN):
                module.fuse()
                if channels is not None:
                    module.widen(channels)
        branch: Any = getattr(self, 'small', None)
        if not self.is_parallel or branch is None or self.has_filters_left_out:
            return
        small, large = branch.conv, next(other for other in self.branches if other is not branch).conv
        large.weight.data, = merge([large.weight.data, small.weight.data])
        large.bias.data += small.bias.data
        del self.small
