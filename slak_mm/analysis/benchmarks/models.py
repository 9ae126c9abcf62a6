"""Whole networks: inference, train steps, and what dynamic sparsity adds to them."""
from copy import deepcopy
from statistics import median
from types import SimpleNamespace
from typing import Callable, Dict

import torch
import torch.nn.functional as F
from mmengine.model import initialize
from torch import nn

from ...models import SLaK
from ...sparsity import DynamicSparsity
from .. import networks
from ..flops import complexity
from ..networks import BASELINE, CLASSES, CONVNEXT, MERGED, OURS, WITH_CP, TrainStep, inference_case, memory_of_training
from ..throughput import in_fresh_process, interleaved
from .result import DTYPES, Result, convnext, drop, medians_of

ALL = 'all neurons'
INTERVAL = 100  # the paper's number of steps from one adaptation of the masks to the next


def inference(args: SimpleNamespace) -> Result:
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


def forms(args: SimpleNamespace) -> Result:
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
    cases: Dict[str, Callable[[], object]] = {
        f'{name}, inference': inference_case(networks.merged(model), images) for name, model in models.items()}
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


def neurons(args: SimpleNamespace) -> Result:
    """hidden units removed and cut out: inference and a train step of what is left, of all, and of ConvNeXt; FLOPs beside them"""
    arch = SLaK.arch_settings[args.arch]
    build = networks.builders(arch)
    models = {ALL: build[OURS](), **{f'{share:.0%} removed': networks.without_neurons(arch, share) for share in args.shares},
              **{name: build[name]() for name in CONVNEXT}}
    costs = {name: complexity(deepcopy(model), (args.size, args.size)) for name, model in models.items()}
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device, dtype=DTYPES[args.dtype])
    settings = args.batch, args.size, args.device, DTYPES[args.dtype]
    # a train step first, as it keeps weights in fp32
    seconds = interleaved({f'{name}, train step': TrainStep(model, *settings) for name, model in models.items()}, args.repeats)
    seconds.update(interleaved({f'{name}, inference': inference_case(networks.merged(model) if name not in CONVNEXT else model, images)
                                for name, model in models.items()}, args.repeats))
    medians = medians_of(seconds)
    kinds = 'train step', 'inference'
    ratios = {f'{ALL} / {name}, {kind}': medians[f'{ALL}, {kind}'] / medians[f'{name}, {kind}']
              for kind in kinds for name in models if name not in (ALL, *CONVNEXT)}
    ratios.update({f'{ALL} / ConvNeXt, {kind}': medians[f'{ALL}, {kind}'] / convnext(medians, kind) for kind in kinds})
    return Result(seconds, ratios, {'GFLOPs': {name: cost.macs / 1e9 for name, cost in costs.items()},
                                    'million parameters': {name: cost.parameters / 1e6 for name, cost in costs.items()}})


def train(args: SimpleNamespace) -> Result:
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


def upkeep(args: SimpleNamespace) -> Result:
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

    def mask_both():
        sparsity.before_step(optimizer)
        sparsity.step(optimizer)

    seconds = interleaved({
        'forward and backward': forward_and_backward,
        'mask the gradients': lambda: sparsity.before_step(optimizer),
        'optimizer': optimizer.step,
        'mask the weights': lambda: sparsity.step(optimizer),
        'mask both and adapt': mask_both,
    }, args.repeats)
    compute, gradients, update, weights, adapting = map(median, seconds.values())
    masks, adaptation = gradients + weights, (adapting - gradients - weights) / INTERVAL
    step = compute + update + masks + adaptation
    return Result(seconds, {'masks / train step': masks / step, 'adaptation / train step': adaptation / step,
                            'upkeep / train step': (masks + adaptation) / step})
