"""What things cost on this machine. The cases of a part are measured in turn, in one run, and compared by their medians.

Prints a table and writes it, with every sample, as JSON.
"""
import argparse
import json
import os
import platform
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import common  # noqa: F401
import torch
import torch.nn.functional as F
from mmengine.model import initialize
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from slak_mm.analysis import networks
from slak_mm.analysis.networks import BASELINE, CONVNEXT, MERGED, OURS, WITH_CP, TrainStep, inference_case, memory_of_training
from slak_mm.analysis.throughput import fit_exponent, in_fresh_process, interleaved
from slak_mm.models import SLaK, ops
from slak_mm.models.large_kernel import branch_shapes
from slak_mm.sparsity import DynamicSparsity

CLASSES = networks.CLASSES
INTERVAL = 100  # the paper's number of steps from one adaptation of the masks to the next
SPARSITY = 0.4
SMALL_KERNEL = 5
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)


class Result(NamedTuple):
    """Seconds of each repetition of each case, the ratios that they come to, and other figures by their unit."""
    seconds: Dict[str, List[float]]
    ratios: Dict[str, float]
    figures: Dict[str, Dict[str, float]] = {}


def medians_of(seconds: Dict[str, List[float]]) -> Dict[str, float]:
    return {name: median(samples) for name, samples in seconds.items()}


def convnext(medians: Dict[str, float], rest: str) -> float:
    """The median of ConvNeXt in its better memory layout."""
    return min(medians[f'{name}, {rest}'] for name in CONVNEXT)


def drop(weight: Tensor) -> Tensor:
    """``weight`` with 40% zeros: where they are is all the same to a dense kernel."""
    return weight * (torch.rand_like(weight, dtype=torch.float32) >= SPARSITY).to(weight.dtype)


def large_kernel(args: argparse.Namespace, dtype: str, form: str, kernel_size: int, size: int) -> Tuple[Tensor, List[Tensor]]:
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
    return sum(conv2d_branches(x, weights))


def passes(function: Callable, x: Tensor, weights: Sequence[Tensor]) -> Dict[str, Callable[[], object]]:
    """``function(x, weights)`` without and with gradients; every output has the same one."""
    grad = torch.randn_like(x)

    def forward_and_backward():
        outs = function(x, weights)
        outs = [outs] if isinstance(outs, Tensor) else outs
        torch.autograd.grad(outs, [x, *weights], [grad] * len(outs))

    return {'forward': torch.no_grad()(partial(function, x, weights)), 'forward and backward': forward_and_backward}


def layer(args: argparse.Namespace) -> Result:
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


def inference(args: argparse.Namespace) -> Result:
    """Table 11: inference of ConvNeXt, Swin, SLaK in the authors' layout, and SLaK as it is and merged"""
    seconds, ratios, throughput = {}, {}, {}
    build = networks.builders(SLaK.arch_settings[args.arch])
    models = {name: build[name]() for name in (*CONVNEXT, BASELINE, OURS)}
    models[MERGED] = networks.merged(models[OURS])
    for batch, size in args.runs:
        models['Swin'] = networks.swin(args.arch, size)
        images = torch.randn(batch, 3, size, size, device=args.device, dtype=DTYPES[args.dtype])
        run = f'batch {batch} at {size}x{size}'
        samples = interleaved({f'{name}, {run}': inference_case(model, images) for name, model in models.items()}, args.repeats)
        medians = medians_of(samples)
        seconds.update(samples)
        throughput.update({name: batch / value for name, value in medians.items()})
        ratios.update({f'{BASELINE} / {name}, {run}': medians[f'{BASELINE}, {run}'] / medians[f'{name}, {run}']
                       for name in (OURS, MERGED)})
        ratios[f'{MERGED} / ConvNeXt, {run}'] = medians[f'{MERGED}, {run}'] / convnext(medians, run)
    return Result(seconds, ratios, {'images/s': throughput})


def forms(args: argparse.Namespace) -> Result:
    """Table 12: the network with MxM kernels, decomposed, sparse, and 1.3 times as wide"""
    arch = SLaK.arch_settings[args.arch]
    models = {'naive': networks.slak(arch, large_kernel='naive', width_factor=1.),
              'decomposed': networks.slak(arch, width_factor=1.), 'sparse': networks.slak(arch, width_factor=1.),
              'sparse, 1.3x width': networks.slak(arch, width_factor=1.3)}
    for name, model in models.items():
        for parameter in model.parameters():
            if 'sparse' in name and parameter.dim() > 1:
                parameter.data = drop(parameter.data)
    parameters = {name: sum(int(parameter.count_nonzero()) for parameter in model.parameters()) / 1e6
                  for name, model in models.items()}
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device, dtype=DTYPES[args.dtype])
    cases = {f'{name}, inference': inference_case(networks.merged(model), images) for name, model in models.items()}
    kinds = ['inference']
    if args.train:
        kinds.append('train step')
        cases.update({f'{name}, train step': TrainStep(model, args.batch, args.size, args.device, DTYPES[args.dtype])
                      for name, model in models.items()})
    seconds = interleaved(cases, args.repeats)
    medians = medians_of(seconds)
    ratios = {f'naive / {name}, {kind}': medians[f'naive, {kind}'] / medians[f'{name}, {kind}']
              for kind in kinds for name in models if name != 'naive'}
    throughput = {name: args.batch / value for name, value in medians.items()}
    return Result(seconds, ratios, {'images/s': throughput, 'million parameters that are not zero': parameters})


def train(args: argparse.Namespace) -> Result:
    """a train step of SLaK in the authors' layout, as it is and with_cp, and of ConvNeXt: time and peak memory"""
    arch = SLaK.arch_settings[args.arch]
    settings = args.batch, args.size, args.device, DTYPES[args.dtype]
    build = networks.builders(arch)
    memory = {name: in_fresh_process(memory_of_training, name, arch, *settings, args.threads) / 2**20 for name in build}
    steps = {name: TrainStep(build[name](), *settings) for name in build}
    compute, update, whole = 'forward and backward', 'optimizer', 'train step'
    seconds = interleaved({f'{name}, {kind}': case for name, step in steps.items()
                           for kind, case in ((compute, step.compute), (update, step.update))}, args.repeats)
    for name in steps:
        seconds[f'{name}, {whole}'] = list(map(sum, zip(seconds[f'{name}, {compute}'], seconds[f'{name}, {update}'])))
    medians = medians_of(seconds)
    ratios = {f'{BASELINE} / {name}, {kind}': medians[f'{BASELINE}, {kind}'] / medians[f'{name}, {kind}']
              for name in (OURS, WITH_CP) for kind in (compute, whole)}
    ratios[f'{OURS} / ConvNeXt, {whole}'] = medians[f'{OURS}, {whole}'] / convnext(medians, whole)
    ratios.update({f'{BASELINE} / {name}, peak memory': memory[BASELINE] / memory[name] for name in (OURS, WITH_CP)})
    return Result(seconds, ratios, {'MiB at the peak of two train steps': memory})


def scaling(args: argparse.Namespace) -> Result:
    """one large-kernel layer, decomposed and MxM, over kernel sizes and over resolutions; the exponents of its time"""
    cases, series = {}, {}
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


def gpu(args: argparse.Namespace) -> Result:
    """what is of interest on a GPU: the op against torch's convolutions, and the throughput of SLaK and ConvNeXt"""
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


def gpu_op(args: argparse.Namespace, dtype: str, size: int) -> Tuple[dict, dict, dict]:
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


def gpu_inference(args: argparse.Namespace, dtype: str, batch: int) -> Tuple[dict, dict, dict]:
    """Seconds, ratios and images/s of the networks."""
    images = torch.randn(batch, 3, args.size, args.size, device=args.device, dtype=DTYPES[dtype])
    build = networks.builders(SLaK.arch_settings[args.arch])
    run = f'{dtype}, batch {batch}'
    cases = {f'{name}, {run}': inference_case(build[name](), images) for name in (BASELINE, *CONVNEXT)}
    ours = inference_case(networks.merged(build[OURS]()), images)
    cases.update({f'{MERGED} {backend}, {run}': within(backend, ours) for backend in args.backends})
    seconds = interleaved(cases, args.repeats)
    medians = medians_of(seconds)
    ratios = {f'throughput of {name} / ConvNeXt': convnext(medians, run) / value
              for name, value in medians.items() if name.startswith(MERGED)}
    return seconds, ratios, {name: batch / value for name, value in medians.items()}


def upkeep(args: argparse.Namespace) -> Result:
    """the share of dynamic sparsity (masks, and their adaptation every 100 steps) in a train step"""
    backbone = SLaK(args.arch, norm_cfg=dict(type='BN'))
    head = nn.Linear(backbone.channels[-1], CLASSES)
    model = nn.ModuleList([backbone, head])
    initialize(model, backbone.init_cfg)
    images, labels = torch.randn(args.batch, 3, args.size, args.size), torch.randint(CLASSES, (args.batch, ))
    optimizer = torch.optim.AdamW(model.parameters())
    # in each round two steps are counted, and the second one adapts
    sparsity = DynamicSparsity(model, total_steps=1000 * args.repeats, interval=2)
    sparsity.initialize(lambda: F.cross_entropy(head(backbone(images)[-1]), labels))

    def forward_and_backward():
        optimizer.zero_grad()
        F.cross_entropy(head(backbone(images)[-1]), labels).backward()

    seconds = interleaved({
        'forward and backward': forward_and_backward,
        'mask the gradients': lambda: sparsity.before_step(optimizer),
        'optimizer': optimizer.step,
        'mask the weights': lambda: sparsity.step(optimizer),
        'mask both and adapt': lambda: (sparsity.before_step(optimizer), sparsity.step(optimizer)),
    }, args.repeats)
    compute, gradients, update, weights, adapting = map(median, seconds.values())
    masks, adaptation = gradients + weights, (adapting - gradients - weights) / INTERVAL
    step = compute + update + masks + adaptation
    return Result(seconds, {'masks / train step': masks / step, 'adaptation / train step': adaptation / step,
                            'upkeep / train step': (masks + adaptation) / step})


def batch_and_size(text: str) -> Tuple[int, int]:
    batch, size = text.split('x')
    return int(batch), int(size)


OPTIONS = dict(
    arch=dict(choices=SLaK.arch_settings, help='of each network'),
    batch=dict(type=int, help='number of images, or of maps of a layer'),
    size=dict(type=int, help='height and width of the images, or of the map of a layer'),
    runs=dict(type=batch_and_size, nargs='+', metavar='BATCHxSIZE', help='images, and their height and width'),
    batches=dict(type=int, nargs='+', metavar='N', help='numbers of images in inference'),
    channels=dict(type=int, help='of a layer'),
    resolutions=dict(type=int, nargs='+', metavar='R', help='heights and widths of the map of a layer'),
    kernel_size=dict(type=int, metavar='M', help='longer edge of the kernels of a layer'),
    kernel_sizes=dict(type=int, nargs='+', metavar='M', help='longer edges of the kernels of a layer'),
    train=dict(action='store_true', help='measure train steps as well'),
    backends=dict(choices=ops.backend.BACKENDS, nargs='+', help='of the op'),
    calls=dict(type=int, help='calls of a layer in a sample'),
    device=dict(choices=['cpu', 'cuda'], help='where'),
    dtype=dict(choices=DTYPES, help='of the tensors in inference, of autocast in training'),
    dtypes=dict(choices=DTYPES, nargs='+', help='of the tensors'),
    repeats=dict(type=int, help='samples of each case'),
    threads=dict(type=int, help='of the CPU'),
)
ON_CPU = dict(device='cpu', dtype='fp32')
# name: what measures it, and the defaults of its options
PARTS = dict(
    layer=(layer, dict(batch=8, channels=384, resolutions=[16, 32, 64, 128], kernel_size=51, **ON_CPU)),
    inference=(inference, dict(arch='tiny', runs=[(8, 224), (1, 224), (1, 512)], **ON_CPU)),
    forms=(forms, dict(arch='tiny', batch=8, size=224, train=False, **ON_CPU)),
    train=(train, dict(arch='tiny', batch=4, size=224, **ON_CPU)),
    scaling=(scaling, dict(batch=1, channels=64, kernel_size=51, kernel_sizes=[7, 13, 31, 51, 71, 101, 151], size=96,
                           resolutions=[32, 64, 128, 256], **ON_CPU)),
    gpu=(gpu, dict(batch=64, channels=384, resolutions=[16, 32, 64, 128], kernel_size=51, calls=10, arch='tiny', size=224,
                   batches=[64, 128, 256], backends=['triton', 'native', 'auto'], dtypes=['fp32', 'bf16'], device='cuda')),
    upkeep=(upkeep, dict(arch='tiny', batch=8, size=224)),
)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest='part', required=True)
    for name, (measure, defaults) in PARTS.items():
        part = parts.add_parser(name, help=measure.__doc__, description=measure.__doc__,
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        for option, default in dict(defaults, repeats=9, threads=torch.get_num_threads()).items():
            part.add_argument('--' + option.replace('_', '-'), default=default, **OPTIONS[option])
        part.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'), help='folder for <part>.json')
    return parser.parse_args(argv)


def show(title: str, result: Result) -> None:
    """Prints the medians with their range, then the ratios and the other figures."""
    table = Table('', 'median, ms', 'min', 'max', title=title, title_justify='left')
    for name, seconds in result.seconds.items():
        table.add_row(name, *(f'{1000 * f(seconds):,.1f}' for f in (median, min, max)))
    table.add_section()
    for name, ratio in result.ratios.items():
        table.add_row(name, f'{ratio:.4f}')
    for unit, figures in result.figures.items():
        table.add_section()
        for name, figure in figures.items():
            table.add_row(f'{unit}: {name}', f'{figure:,.2f}')
    Console().print(table)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    cuda = getattr(args, 'device', 'cpu') == 'cuda'
    if cuda and not torch.cuda.is_available():
        sys.exit(f'error: {args.part} on cuda needs an NVIDIA GPU and a torch built for it; torch {torch.__version__} finds none here')
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    result = PARTS[args.part][0](args)
    settings = {name: value for name, value in vars(args).items() if name not in ('part', 'out')}
    machine = dict(platform=platform.platform(), cores=os.cpu_count(), instructions=torch.backends.cpu.get_cpu_capability(),
                   torch=torch.__version__)
    if cuda:
        machine.update(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
                       tf32_convolutions=torch.backends.cudnn.allow_tf32)
    show(f'{args.part}: ' + ', '.join(f'{name} {value}' for name, value in settings.items()), result)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'{args.part}.json'
    path.write_text(json.dumps(dict(part=args.part, settings=settings, machine=machine, medians=medians_of(result.seconds),
                                    **result._asdict()), indent=1) + '\n')
    print(path)


if __name__ == '__main__':
    main()
