"""What things cost on this machine. The cases of a part are measured in turn, in one run, and compared by their medians.

Prints a table and writes it, with every sample, as JSON.
"""
import argparse
import json
from pathlib import Path
from statistics import median
from typing import Optional, Sequence, Tuple

import common
import torch
from rich.console import Console
from rich.table import Table

from slak_mm.analysis.benchmarks import DTYPES, PARTS, Result, machine, markdown, measure, medians_of
from slak_mm.models import SLaK


def batch_and_size(text: str) -> Tuple[int, int]:
    batch, size = text.split('x')
    return int(batch), int(size)


OPTIONS = dict(
    arch=dict(choices=SLaK.arch_settings, help='of each network'),
    batch=dict(type=int, help='number of images, or of maps of a layer'),
    size=dict(type=int, help='height and width of the images, or of the map of a layer'),
    runs=dict(type=batch_and_size, nargs='+', metavar='BATCHxSIZE', help='images, and their height and width'),
    train_batch=dict(type=int, help='number of images of a train step'),
    op_batch=dict(type=int, help='number of maps of a layer'),
    minutes=dict(type=float, help='all of it; what matters most comes first, and what is left out is said'),
    channels=dict(type=int, help='of a layer'),
    resolutions=dict(type=int, nargs='+', metavar='R', help='heights and widths of the map of a layer'),
    kernel_size=dict(type=int, metavar='M', help='longer edge of the kernels of a layer'),
    kernel_sizes=dict(type=int, nargs='+', metavar='M', help='longer edges of the kernels of a layer'),
    shares=dict(type=float, nargs='+', metavar='S', help='of the hidden units to remove'),
    train=dict(action='store_true', help='measure train steps as well'),
    device=dict(choices=['cpu', 'cuda'], help='where'),
    dtype=dict(choices=DTYPES, help='of the tensors in inference, of autocast in training'),
    dtypes=dict(choices=DTYPES, nargs='+', help='of the tensors'),
    repeats=dict(type=int, help='samples of each case'),
    threads=dict(type=int, help='of the CPU'),
)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest='part', required=True)
    for name, (function, defaults) in PARTS.items():
        part = parts.add_parser(name, help=function.__doc__, description=function.__doc__,
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        shared = dict(threads=torch.get_num_threads(), **({} if 'minutes' in defaults else dict(repeats=9)))
        for option, default in {**defaults, **shared}.items():
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
    settings = {name: value for name, value in vars(args).items() if name not in ('part', 'out')}
    result = measure(args.part, **settings)
    show(f'{args.part}: ' + ', '.join(f'{name} {value}' for name, value in settings.items()), result)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'{args.part}.json'
    found = machine(settings.get('device') == 'cuda')
    path.write_text(json.dumps(dict(part=args.part, settings=settings, machine=found, medians=medians_of(result.seconds),
                                    **result._asdict()), indent=1) + '\n')
    print(path)
    if args.part == 'gpu':
        path = path.with_suffix('.md')
        path.write_text(markdown(result, found))  # for docs/performance.md
        print(path)


if __name__ == '__main__':
    common.run(main)
