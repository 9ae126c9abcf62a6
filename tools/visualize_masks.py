"""Draws the masks of a sparse training run, during or after it, from its checkpoints: each holds them.

Writes a strip of kernels over training (mask_strip.png; with --gif also mask_strip.gif), how dense each layer is and which share of
its weights was ever active (density.png), and all the numbers (masks.json).
"""
import argparse
import json
from pathlib import Path
from typing import List, Sequence

import common
import matplotlib

matplotlib.use('Agg')
from slak_mm.analysis.mask_figures import draw_densities, draw_gif, draw_strip, table  # noqa: E402
from slak_mm.analysis.mask_pictures import Snapshot, kernel_rows, read_run, select_layers, shares  # noqa: E402


def draw_all(snapshots: List[Snapshot], names: Sequence[str], args: argparse.Namespace) -> None:
    steps = [snapshot.step for snapshot in snapshots]
    numbers = {step: shares(snapshot) for step, snapshot in zip(steps, snapshots)}
    last = numbers[steps[-1]]
    rows = kernel_rows(snapshots, names, args.kernels)
    args.out.mkdir(parents=True, exist_ok=True)
    draw_strip(rows, steps, args.out / 'mask_strip.png')
    draw_densities(last, steps[-1], args.out / 'density.png')
    if args.gif:
        draw_gif(rows, steps, args.out / 'mask_strip.gif')
    (args.out / 'masks.json').write_text(json.dumps(numbers, indent=1) + '\n')
    print(table(last, [*names, 'total']))
    print('steps, and the share of all weights ever active: '
          + ', '.join(f"{step:,}: {row['total']['ever_active']:.1%}" for step, row in numbers.items()))
    print(f'{args.out}/mask_strip.png, {"mask_strip.gif, " if args.gif else ""}density.png, masks.json')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('run', nargs='+', type=Path, metavar='WORK_DIR_OR_CHECKPOINT', help='a folder, or checkpoints, of one run')
    parser.add_argument('--layers', nargs='+', default=[], help='parts of the names of depthwise layers, as stages.2.0 or tall; by '
                        'default the first block that is sparse')
    parser.add_argument('--kernels', type=int, default=3, help='the first this many kernels of each layer; default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/masks_seen'), help='folder to write; default: %(default)s')
    parser.add_argument('--gif', action='store_true', help='also a moving picture')
    args = parser.parse_args(argv)
    if args.kernels < 1:
        parser.error('--kernels must be at least 1')
    return args


def main(argv=None):
    args = parse_args(argv)
    snapshots = read_run(args.run)
    draw_all(snapshots, select_layers(snapshots[-1], args.layers), args)


if __name__ == '__main__':
    common.run(main)
