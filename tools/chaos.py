"""Kills a training with SIGKILL at random moments, also while it saves, resumes it each time, and compares it with an unbroken one.

    python tools/chaos.py configs/upernet_slak_micro_toy_ade20k.py --kills 20 --cfg-options train_cfg.max_iters=60

Equal means bit by bit: weights, average, masks, the optimizer's moments, schedules, counters, position in the data, and each loss
logged on the way. Takes any config that tools/train.py takes; meant for small ones.
"""
import argparse
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Iterator, List, Optional

import common
import numpy as np
import torch
import train
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from rich.console import Console
from rich.progress import track

from slak_mm.checkpoints import load_file
from slak_mm.reliability.checkpoint_hook import newest_checkpoint
from slak_mm.reliability.file_backend import AtomicLocalBackend

# what names a run, and times; and validations: one that a kill breaks off is not made up for
LEFT_OUT = r'/meta/(cfg|time|experiment_name)|/message_hub/(runtime_info|(log_scalars|resumed_keys)/(train/(data_)?time|val/.*))'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file; it should set randomness.seed')
    parser.add_argument('--kills', type=int, default=20, help='half of them while a checkpoint is written; defaults to 20')
    parser.add_argument('--seed', type=int, default=0, help='of the moments; defaults to 0')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/chaos'),
                        help='an empty or new folder, for both runs; defaults to work_dirs/chaos')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help="as tools/train.py's")
    return parser.parse_args()


def _kill_in(owner: type, method: str, number: int, share: float) -> None:
    """This process group ends in call ``number`` of a method, after that share of the time that the call before took."""
    call, seconds = getattr(owner, method), [.01]

    def timed(*args, **kwargs):
        begin = time.perf_counter()
        if len(seconds) == number:
            threading.Timer(share * seconds[-1], os.killpg, (os.getpgrp(), signal.SIGKILL)).start()
        result = call(*args, **kwargs)
        seconds.append(time.perf_counter() - begin)
        return result

    setattr(owner, method, timed)


MOMENTS = dict(
    save=[(AtomicLocalBackend, 'put')],
    iteration=[(IterBasedTrainLoop, 'run_iter'), (EpochBasedTrainLoop, 'run_iter')],
    start=[(Runner, 'load_or_resume')])


def _train(argv: List[str], log: Path, moment: Optional[str], number: int, share: float) -> None:
    """Runs in a process of its own, which leads a group: to kill the group is to kill the data workers too."""
    os.setsid()
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for owner, method in MOMENTS.get(moment, []):
        _kill_in(owner, method, number, share)
    sys.argv = ['train.py', *argv]
    common.run(train.main)


class Training:
    """A training in ``folder``, as often started as need be."""

    def __init__(self, context, args: argparse.Namespace, folder: Path):
        self.folder, self._context = folder, context
        self._argv = [args.config, '--resume', '--work-dir', str(folder)]
        if args.cfg_options:
            self._argv += ['--cfg-options', *args.cfg_options]
        folder.mkdir(parents=True)

    def run(self, moment: Optional[str] = None, number: int = 1, share: float = 0.) -> bool:
        """Runs to the end, or until it is killed (see :func:`_kill_in`); returns whether it was."""
        process = self._context.Process(target=_train, args=(self._argv, self.folder / 'output.log', moment, number, share))
        process.start()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise SystemExit(f'error: the training failed by itself; the end of {self.folder}/output.log:\n'
                             + (self.folder / 'output.log').read_text()[-2000:])
        return process.exitcode != 0

    def has_torn_file(self) -> bool:
        return any(self.folder.glob('*.pth.tmp'))


def differences(a, b, path: str = '') -> Iterator[str]:
    """Where two checkpoints differ, by any bit, but for what is LEFT_OUT."""
    if type(a) is not type(b):
        yield f'{path}: {type(a).__name__}, {type(b).__name__}'
    elif isinstance(a, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            inner = f'{path}/{key}'
            if re.fullmatch(LEFT_OUT, inner):
                continue
            if key not in a or key not in b:
                yield f'{inner}: in one only'
            else:
                yield from differences(a[key], b[key], inner)
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            yield f'{path}: {len(a)} and {len(b)} entries'
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f'{path}/{i}')
    elif isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(a, b):
            yield path
    elif isinstance(a, HistoryBuffer):
        yield from differences(list(a.data), list(b.data), path)
    elif isinstance(a, np.ndarray):
        if not np.array_equal(a, b):
            yield path
    elif a != b:
        yield f'{path}: {a} and {b}'


def main():
    args = parse_args()
    if args.work_dir.is_dir() and any(args.work_dir.iterdir()):
        sys.exit(f'error: {args.work_dir} is not empty. Give another --work-dir.')
    scope = Config.fromfile(args.config).get('default_scope', 'mmengine')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['train', f'{scope}.models', f'{scope}.datasets', f'{scope}.evaluation', f'{scope}.visualization'])
    rng = random.Random(args.seed)

    console = Console(stderr=True)
    with console.status('the unbroken run'):
        unbroken = Training(context, args, args.work_dir / 'unbroken')
        unbroken.run()
    result = newest_checkpoint(str(unbroken.folder))
    if result is None:
        sys.exit('error: the config saves no checkpoint. Set default_hooks.checkpoint.interval.')
    expected = load_file(result)
    at_most = max(2 * expected['meta']['iter'] // args.kills, 1)  # iterations, so that the run ends about when the kills do
    broken = Training(context, args, args.work_dir / 'broken')
    kills, torn = Counter(), 0
    for i in track(range(args.kills), 'killing', console=console):
        moment = 'save' if i % 2 else rng.choice(['iteration'] * 4 + ['start'])
        number = dict(save=rng.randint(1, 2), iteration=rng.randint(1, at_most), start=1)[moment]
        if not broken.run(moment, number, share=rng.uniform(0, 1.2)):
            break  # it came to its end
        kills[moment] += 1
        torn += broken.has_torn_file()
    with console.status('to the end'):
        broken.run()

    result = newest_checkpoint(str(broken.folder))
    found = list(differences(expected, load_file(result)))
    counts = ', '.join(f'{count} in {moment}' for moment, count in sorted(kills.items()))
    print(f'{sum(kills.values())} kills ({counts}); {torn} left a file half written. {result} '
          + ('equals that of the unbroken run, bit by bit.' if not found else 'differs from the unbroken run in:'))
    print(*found, sep='\n', end='\n' if found else '')
    if found:
        sys.exit(f'error: {len(found)} entries differ.')


if __name__ == '__main__':
    common.run(main)
