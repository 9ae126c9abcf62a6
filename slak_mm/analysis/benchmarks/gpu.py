"""A GPU: networks and the op, by each backend, what matters most first, until time is up."""
import time
from functools import partial
from types import SimpleNamespace
from typing import Callable, Dict, Iterator, List, Sequence, Tuple

import torch

from ...models import SLaK, ops
from .. import networks
from ..networks import BASELINE, CONVNEXT, MERGED, OURS, MaskedTrainStep, TrainStep, inference_case
from ..throughput import timed
from .layers import conv2d_branches, conv2d_sum, large_kernel, passes
from .result import DTYPES, Result, medians_of

Cases = Dict[str, Callable[[], object]]
FORMATS = dict(NCHW=torch.contiguous_format, NHWC=torch.channels_last)
# a case gets this part of the time: there are about 90, of which the slow ones take longer than they are given
SHARE = 1 / 160
# instead of the sizes that fill a GPU, on a CPU, where only the code is tried
SMALLEST = dict(arch='micro', batch=1, train_batch=2, size=32, op_batch=1, channels=4, kernel_size=9)
MICRO = dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8))


def gpu(args: SimpleNamespace) -> Result:
    """on a GPU, in --minutes: SLaK and ConvNeXt end to end, then the op against torch's convolutions"""
    torch.backends.cudnn.benchmark = True
    deadline = time.monotonic() + 60 * args.minutes
    backends = 'native', 'triton'
    if args.device == 'cpu':
        args = SimpleNamespace(**{**vars(args), **SMALLEST, 'resolutions': [min(size, 8) for size in args.resolutions[:1]]})
        backends = 'native', 'auto'
    seconds: Dict[str, List[float]] = {}
    ratios: Dict[str, float] = {}
    throughput: Dict[str, float] = {}
    left_out: Dict[str, float] = {}
    for title, images, build in parts(args, backends):
        if time.monotonic() >= deadline:
            left_out[title] = 0.
            continue
        samples = timed(build(), 60 * args.minutes * SHARE, deadline)
        medians = medians_of(samples)
        seconds.update(samples)
        if images:
            throughput.update({name: images / value for name, value in medians.items()})
        ratios.update(compare(medians))
        if args.device == 'cuda':
            torch.cuda.empty_cache()
    return Result(seconds, ratios, {'images/s': throughput, **({'not measured, as time was up': left_out} if left_out else {})})


def parts(args: SimpleNamespace, backends: Tuple[str, str]) -> Iterator[Tuple[str, int, Callable[[], Cases]]]:
    """Title, images in a call (0 for a layer) and what builds the cases of each part; those that matter most come first."""
    for dtype in args.dtypes:
        yield f'inference, {dtype}', args.batch, partial(inference_cases, args, dtype, backends)
        yield f'train step, {dtype}', args.train_batch, partial(train_cases, args, dtype, backends)
    for size in args.resolutions:
        for dtype in args.dtypes:
            yield f'op, {dtype}, {size}x{size}', 0, partial(op_cases, args, dtype, size, backends[1])


def within(backend: str, case: Callable[[], object]) -> Callable[[], object]:
    def run():
        with ops.use_backend(backend):
            case()
    return run


def _networks(args: SimpleNamespace) -> Dict[str, Callable[[], networks.Classifier]]:
    return networks.builders(MICRO if args.arch == 'micro' else SLaK.arch_settings[args.arch])


def inference_cases(args: SimpleNamespace, dtype: str, backends: Tuple[str, str]) -> Cases:
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device, dtype=DTYPES[dtype])
    build = _networks(args)
    cases: Cases = {f'{name}, inference, {dtype}': inference_case(build[name](), images) for name in (BASELINE, *CONVNEXT)}
    ours = build[OURS]()
    for name, model in ((OURS, ours), (MERGED, networks.merged(ours))):
        case = inference_case(model, images)
        cases.update({f'{name} by {backend}, inference, {dtype}': within(backend, case) for backend in backends})
    return cases


def train_cases(args: SimpleNamespace, dtype: str, backends: Tuple[str, str]) -> Cases:
    settings = args.train_batch, args.size, args.device, DTYPES[dtype]
    build = _networks(args)
    cases: Cases = {f'{name}, train step, {dtype}': TrainStep(build[name](), *settings) for name in (BASELINE, CONVNEXT[1])}
    for backend in backends:
        with ops.use_backend(backend):  # which SNIP runs too
            cases[f'{OURS} with masks by {backend}, train step, {dtype}'] = within(backend, MaskedTrainStep(build[OURS](), *settings))
    cases[f'{OURS} by {backends[1]}, train step, {dtype}'] = within(backends[1], TrainStep(build[OURS](), *settings))
    return cases


def op_cases(args: SimpleNamespace, dtype: str, size: int, backend: str) -> Cases:
    """The sum of the branches, and the branches apart, by torch in both layouts and by ours in its own."""
    sizes = SimpleNamespace(**{**vars(args), 'batch': args.op_batch})
    x, weights = large_kernel(sizes, dtype, 'decomposed', args.kernel_size, size)
    cases: Cases = {}
    for output, function, torchs in (('sum', ops.large_kernel_conv2d, conv2d_sum),
                                     ('branches', ops.large_kernel_branches, conv2d_branches)):
        rest = f'op, {dtype}, {size}x{size}, {output}'
        for direction, case in passes(function, x.detach().contiguous().requires_grad_(), weights).items():
            cases[f'ours by {backend}, {rest}, {direction}'] = within(backend, case)
        for layout, memory_format in FORMATS.items():
            moved = x.detach().contiguous(memory_format=memory_format).requires_grad_()
            cases.update({f'torch {layout}, {rest}, {direction}': case for direction, case in passes(torchs, moved, weights).items()})
    return cases


def compare(medians: Dict[str, float]) -> Dict[str, float]:
    """Ours against torch's own, and against ConvNeXt in its better layout, where these were measured."""
    ratios = {}
    for name, value in medians.items():
        implementation, rest = name.split(', ', 1)
        rivals: Dict[str, Sequence[str]] = {}
        if implementation.startswith(OURS):
            rivals = {f'{BASELINE} / {name}': (BASELINE, ), f'throughput of {name} / ConvNeXt': CONVNEXT}
        elif implementation.startswith('ours'):
            rivals = {f'torch / {name}': [f'torch {layout}' for layout in FORMATS]}
        for ratio, others in rivals.items():
            measured = [medians[f'{other}, {rest}'] for other in others if f'{other}, {rest}' in medians]
            if measured:
                ratios[ratio] = min(measured) / value
    return ratios


def markdown(result: Result, machine: dict) -> str:
    """The tables for docs/performance.md."""
    medians = medians_of(result.seconds)
    lines = [', '.join(f'{key} {value}' for key, value in machine.items()), '',
             '| network | dtype | | ms | images/s | torch / ours | ours / ConvNeXt |', '|---|---|---|---|---|---|---|']
    ops_lines = ['', '| op | | dtype | direction | ms | torch / ours |', '|---|---|---|---|---|---|']
    images = result.figures['images/s']
    for name, value in medians.items():
        parts = name.split(', ')
        if name in images:
            faster, share = (result.ratios.get(key.format(name)) for key in (BASELINE + ' / {}', 'throughput of {} / ConvNeXt'))
            columns = [parts[0], parts[2], parts[1], f'{1000 * value:.1f}', f'{images[name]:.0f}',
                       *('' if ratio is None else f'{ratio:.2f}' for ratio in (faster, share))]
            lines.append(f'| {" | ".join(columns)} |')
        else:
            implementation, _, dtype, size, output, direction = parts
            faster = result.ratios.get(f'torch / {name}')
            columns = [f'{implementation}, {output}', size, dtype, direction, f'{1000 * value:.2f}',
                       '' if faster is None else f'{faster:.1f}']
            ops_lines.append(f'| {" | ".join(columns)} |')
    return '\n'.join(lines + ops_lines) + '\n'
