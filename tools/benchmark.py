"""What things cost on this machine. The cases of a part are measured in turn, in one run, and compared by their medians.

Prints a table and writes it, with every sample, as JSON.
"""
import argparse
import json
import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import common  # noqa: F401
import torch
import torch.nn.functional as F
from mmengine.model import initialize
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from slak_mm.models import SLaK
from slak_mm.sparsity import DynamicSparsity

CLASSES = 1000
INTERVAL = 100  # the paper's number of steps from one adaptation of the masks to the next


class Result(NamedTuple):
    """Seconds of each repetition of each case, and the ratios that they come to."""
    seconds: Dict[str, List[float]]
    ratios: Dict[str, float]


def interleaved(cases: Dict[str, Callable[[], object]], repeats: int) -> Dict[str, List[float]]:
    """Seconds of each case: all run in order, ``repeats`` times over, after a round that does not count."""
    seconds: Dict[str, List[float]] = {name: [] for name in cases}
    for repeat in track(range(repeats + 1), 'measuring', console=Console(stderr=True)):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


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


# name: what measures it, and the defaults of the options
PARTS = dict(
    upkeep=(upkeep, dict(batch=8, size=224)),
)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest='part', required=True)
    for name, (measure, defaults) in PARTS.items():
        part = parts.add_parser(name, help=measure.__doc__, description=measure.__doc__,
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        part.add_argument('--arch', choices=SLaK.arch_settings, default='tiny', help=' ')
        part.add_argument('--batch', type=int, help=' ')
        part.add_argument('--size', type=int, help='height and width of the images')
        part.add_argument('--repeats', type=int, default=9, help=' ')
        part.add_argument('--threads', type=int, default=torch.get_num_threads(), help=' ')
        part.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'), help='folder for <part>.json')
        part.set_defaults(**defaults)
    return parser.parse_args(argv)


def show(title: str, result: Result) -> None:
    """Prints the medians with their range, then the ratios."""
    table = Table('', 'median, ms', 'min', 'max', title=title, title_justify='left')
    for name, seconds in result.seconds.items():
        table.add_row(name, *(f'{1000 * f(seconds):,.1f}' for f in (median, min, max)))
    table.add_section()
    for name, ratio in result.ratios.items():
        table.add_row(name, f'{ratio:.4f}')
    Console().print(table)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    result = PARTS[args.part][0](args)
    settings = {name: value for name, value in vars(args).items() if name not in ('part', 'out')}
    machine = dict(platform=platform.platform(), cores=os.cpu_count(), instructions=torch.backends.cpu.get_cpu_capability(),
                   torch=torch.__version__)
    show(f'{args.part}: ' + ', '.join(f'{name} {value}' for name, value in settings.items()), result)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'{args.part}.json'
    medians = {name: median(seconds) for name, seconds in result.seconds.items()}
    path.write_text(json.dumps(dict(part=args.part, settings=settings, machine=machine, medians=medians, **result._asdict()),
                               indent=1) + '\n')
    print(path)


if __name__ == '__main__':
    main()
