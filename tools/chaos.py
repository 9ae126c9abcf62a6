"""Kills a training with SIGKILL at random moments, also while it saves, resumes it each time, and compares it with an unbroken one.

    python tools/chaos.py configs/upernet_slak_micro_toy_ade20k.py --kills 20 --cfg-options train_cfg.max_iters=60

Equal means bit by bit: weights, average, masks, the optimizer's moments, schedules, counters, position in the data, and each loss
logged on the way. Takes any config that tools/train.py takes; meant for small ones.
"""
import argparse
import multiprocessing
import random
from pathlib import Path

import common
import train
from mmengine.config import Config
from rich.console import Console

from slak_mm.checkpoints import load_file
from slak_mm.errors import InputError, UserError
from slak_mm.registry import library_of
from slak_mm.reliability.chaos import Training, torment


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file; it should set randomness.seed')
    parser.add_argument('--kills', type=int, default=20, help='half of them while a checkpoint is written; defaults to 20')
    parser.add_argument('--seed', type=int, default=0, help='of the moments; defaults to 0')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/chaos'),
                        help='an empty or new folder, for both runs; defaults to work_dirs/chaos')
    parser.add_argument('--amp', action='store_true', help="as tools/train.py's")
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help="as tools/train.py's")
    return parser.parse_args(argv)


def start(argv):
    common.run(train.main, argv)


def main(argv=None):
    args = parse_args(argv)
    if args.work_dir.is_dir() and any(args.work_dir.iterdir()):
        raise InputError(f'{args.work_dir} is not empty. Give another --work-dir.')
    scope = library_of(Config.fromfile(args.config)) or 'mmengine'
    context = multiprocessing.get_context('forkserver')
    used_late = 'torch._dynamo', 'torch.utils.cpp_extension'  # imported while a training runs: seconds of each start
    context.set_forkserver_preload(['train', *used_late, *(f'{scope}.{part}' for part in ('models', 'datasets', 'evaluation',
                                                                                          'visualization'))])
    argv = [args.config, *['--amp'] * args.amp, *(['--cfg-options', *args.cfg_options] if args.cfg_options else [])]

    console = Console(stderr=True)
    unbroken = Training(start, argv, args.work_dir / 'unbroken', context)
    with console.status('the unbroken run'):
        unbroken.run()
    expected = load_file(unbroken.result())
    broken = Training(start, argv, args.work_dir / 'broken', context)
    report = torment(broken, expected, args.kills, random.Random(args.seed), console)
    counts = ', '.join(f'{count} in {moment}' for moment, count in sorted(report.kills.items()))
    print(f'{sum(report.kills.values())} kills ({counts}); {report.torn} left a file half written. {report.result} '
          + ('equals that of the unbroken run, bit by bit.' if not report.differences else 'differs from the unbroken run in:'))
    print(*report.differences, sep='\n', end='\n' if report.differences else '')
    if report.differences:
        raise UserError(f'{len(report.differences)} entries differ.')


if __name__ == '__main__':
    common.run(main)
