"""One large-kernel layer, by itself."""
from functools import partial, reduce
from operator import add
from types import SimpleNamespace
from typing import Callable, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models import ops
from ...models.large_kernel import branch_shapes
from ..throughput import fit_exponent, interleaved
from .result import DTYPES, Result, drop, medians_of

SMALL_KERNEL = 5


def large_kernel(args: SimpleNamespace, dtype: str, form: str, kernel_size: int, size: int) -> Tuple[Tensor, List[Tensor]]:
    """Input, in the layout that suits the device, and kernels of one large-kernel layer."""
    options = dict(device=args.device, dtype=DTYPES[dtype])
    x = torch.randn(args.batch, args.channels, size, size, **options)
    shapes = branch_shapes(form, kernel_size, SMALL_KERNEL).values()
    weights = [torch.randn(args.channels, 1, *shape, **options).requires_grad_() for shape in shapes]
    if args.device == 'cpu':
        x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), weights


def conv2d_branches(x: Tensor, weights: Sequence[Tensor]) -> List[Tensor]:
    return [F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=len(weight)) for weight in weights]


def conv2d_sum(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return reduce(add, conv2d_branches(x, weights))


def passes(function: Callable, x: Tensor, weights: Sequence[Tensor]) -> Dict[str, Callable[[], object]]:
    """``function(x, weights)`` without and with gradients; every output has the same one."""
    grad = torch.randn_like(x)

    def forward_and_backward():
        outs = function(x, weights)
        outs = [outs] if isinstance(outs, Tensor) else outs
        torch.autograd.grad(outs, [x, *weights], [grad] * len(outs))

    return {'forward': torch.no_grad()(partial(function, x, weights)), 'forward and backward': forward_and_backward}


def layer(args: SimpleNamespace) -> Result:
    """Figure 4, right: inference of one large-kernel layer: dense MxM, sparse MxM, and sparse decomposed"""
    cases = {}
    for size in args.resolutions:
        x, full = large_kernel(args, args.dtype, 'naive', args.kernel_size, size)
        _, decomposed = large_kernel(args, args.dtype, 'decomposed', args.kernel_size, size)
        for name, function, weights in (('dense', conv2d_sum, full), ('sparse', conv2d_sum, map(drop, full)),
                                        ('decomposed', ops.large_kernel_conv2d, map(drop, decomposed))):
            cases[f'{name}, {size}x{size}'] = passes(function, x, list(weights))['forward']
    seconds = interleaved(cases, args.repeats)
    medians = medians_of(seconds)
    return Result(seconds, {f'{name} / decomposed, {size}x{size}':
                            medians[f'{name}, {size}x{size}'] / medians[f'decomposed, {size}x{size}']
                            for size in args.resolutions for name in ('dense', 'sparse')})


def scaling(args: SimpleNamespace) -> Result:
    """one large-kernel layer, decomposed and MxM, over kernel sizes and over resolutions; the exponents of its time"""
    cases: Dict[str, Callable[[], object]] = {}
    series: Dict[str, Dict[int, str]] = {}
    for label, form in (('decomposed', 'decomposed'), ('MxM', 'naive')):
        points = [(kernel, args.size, 'M', kernel) for kernel in args.kernel_sizes]
        points += [(args.kernel_size, size, 'R', size) for size in args.resolutions]
        for kernel, size, symbol, value in points:
            layer = large_kernel(args, args.dtype, form, kernel, size)
            for direction, case in passes(ops.large_kernel_conv2d, *layer).items():
                name = f'{label}, M = {kernel}, R = {size}, {direction}'
                cases[name] = case
                series.setdefault(f'{label} in {symbol}, {direction}', {})[value] = name
    seconds = interleaved(cases, args.repeats)
    medians = medians_of(seconds)
    exponents = {title: fit_exponent(list(names), [medians[name] for name in names.values()]) for title, names in series.items()}
    ratios = {f'MxM / {name}': medians[name.replace('decomposed', 'MxM')] / medians[name]
              for name in cases if name.startswith('decomposed')}
    return Result(seconds, ratios, {'exponent': exponents})
