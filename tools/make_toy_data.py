"""Writes a toy data set: the same small learnable scenes in the layout of any of four data sets."""
import argparse
from pathlib import Path

import common
from rich.progress import track

from slak_mm.toy import LAYOUTS, ToySpec, cfg_options


def parse_args(argv=None):
    """Returns the parsed arguments and the ToySpec they give."""
    spec = ToySpec()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('layout', choices=LAYOUTS, help='data set whose layout to write')
    parser.add_argument('out', type=Path, help='folder to write, to be used as data_root')
    parser.add_argument('--seed', type=int, default=spec.seed, help='seed of the scenes, 0 or more')
    parser.add_argument('--num-train', type=int, default=spec.num_train, help='number of training images')
    parser.add_argument('--num-val', type=int, default=spec.num_val, help='number of validation (VOC: test) images')
    parser.add_argument('--size', type=int, nargs=2, default=spec.size, metavar=('H', 'W'), help='scene size in pixels')
    parser.add_argument('--force', action='store_true', help='write into a non-empty folder, over its files')
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        parser.error(f'{args.out} is not a folder')
    if args.out.is_dir() and any(args.out.iterdir()) and not args.force:
        parser.error(f'{args.out} is not empty; give --force to write into it anyway')
    try:
        return args, ToySpec(args.num_train, args.num_val, args.seed, tuple(args.size))
    except ValueError as error:
        parser.error(str(error))


def main(argv=None) -> None:
    args, spec = parse_args(argv)
    LAYOUTS[args.layout](args.out, spec, track)
    print(f'Use data_root={args.out}, for example: --cfg-options {cfg_options(args.layout, args.out)}')


if __name__ == '__main__':
    common.run(main)
