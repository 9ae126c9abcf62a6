"""A GPU: layers and networks, by each backend of the op."""
from types import SimpleNamespace
from typing import Callable, Dict, Tuple

import torch

from ...models import SLaK, ops
from .. import networks
from ..networks import BASELINE, CONVNEXT, MERGED, OURS, inference_case
from ..throughput import interleaved
from .layers import conv2d_branches, conv2d_sum, large_kernel, passes
from .result import DTYPES, Result, convnext, medians_of


def gpu(args: SimpleNamespace) -> Result:
    """on a GPU: the op against torch's convolutions, and the throughput of SLaK and ConvNeXt"""
    torch.backends.cudnn.benchmark = True
    parts = []
    for dtype in args.dtypes:
        parts += [gpu_op(args, dtype, size) for size in args.resolutions]
        parts += [gpu_inference(args, dtype, batch) for batch in args.batches]
    seconds, ratios, throughput = ({name: value for part in parts for name, value in part[i].items()} for i in range(3))
    return Result(seconds, ratios, {'images/s': throughput})


def within(backend: str, case: Callable[[], object]) -> Callable[[], object]:
    def run():
        with ops.use_backend(backend):
            case()
    return run


def gpu_op(args: SimpleNamespace, dtype: str, size: int) -> Tuple[dict, dict, dict]:
    """Seconds and ratios of the sum of the branches, and of the branches apart, in both memory layouts."""
    x, weights = large_kernel(args, dtype, 'decomposed', args.kernel_size, size)
    formats = dict(NCHW=torch.contiguous_format, NHWC=torch.channels_last)
    cases = {}
    for output, function, torchs in (('sum', ops.large_kernel_conv2d, conv2d_sum),
                                     ('branches', ops.large_kernel_branches, conv2d_branches)):
        for layout, memory_format in formats.items():
            x = x.detach().contiguous(memory_format=memory_format).requires_grad_()
            rest = f'{output}, {dtype}, {size}x{size}'
            for direction, case in passes(torchs, x, weights).items():
                cases[f'conv2d {layout}, {rest}, {direction}'] = case
            for direction, case in passes(function, x, weights).items():
                cases.update({f'{backend} {layout}, {rest}, {direction}': within(backend, case) for backend in args.backends})
    seconds = interleaved(cases, args.repeats, args.calls)
    medians = medians_of(seconds)
    ratios = {}
    for name, value in medians.items():
        implementation, rest = name.split(', ', 1)
        if not implementation.startswith('conv2d'):
            ratios[f'conv2d / {name}'] = min(medians[f'conv2d {layout}, {rest}'] for layout in formats) / value
    return seconds, ratios, {}


def gpu_inference(args: SimpleNamespace, dtype: str, batch: int) -> Tuple[dict, dict, dict]:
    """Seconds, ratios and images/s of the networks."""
    images = torch.randn(batch, 3, args.size, args.size, device=args.device, dtype=DTYPES[dtype])
    build = networks.builders(SLaK.arch_settings[args.arch])
    run = f'{dtype}, batch {batch}'
    cases: Dict[str, Callable[[], object]] = {
        f'{name}, {run}': inference_case(build[name](), images) for name in (BASELINE, *CONVNEXT)}
    ours = inference_case(networks.merged(build[OURS]()), images)
    cases.update({f'{MERGED} {backend}, {run}': within(backend, ours) for backend in args.backends})
    seconds = interleaved(cases, args.repeats)
    medians = medians_of(seconds)
    ratios = {f'throughput of {name} / ConvNeXt': convnext(medians, run) / value
              for name, value in medians.items() if name.startswith(MERGED)}
    return seconds, ratios, {name: batch / value for name, value in medians.items()}
