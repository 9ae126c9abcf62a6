"""Kills a training with SIGKILL at random moments, also while it saves, resumes it each time, and compares it with an unbroken one.

    python tools/chaos.py configs/upernet_slak_micro_toy_ade20k.py --kills 20 --cfg-options train_cfg.max_iters=60

Equal means bit by bit: weights, average, masks, the optimizer's moments, schedules, counters, position in the data, and each loss
logged on the way. Takes any config that tools/train.py takes; meant for small ones.
"""
import argparse
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import common
import numpy as np
import torch
import train
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from rich.console import Console
from rich.progress import track

from slak_mm.checkpoint import CheckpointError, load_file
from slak_mm.engine.checkpoint_hook import newest_checkpoint
from slak_mm.engine.file_backend import AtomicLocalBackend

TIMES = ('train/time', 'train/data_time')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file; it should set randomness.seed')
    parser.add_argument('--kills', type=int, default=20, help='half of them while a checkpoint is written; defaults to 20')
    parser.add_argument('--seed', type=int, default=0, help='of the moments; defaults to 0')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/chaos'),
                        help='an empty or new folder, for both runs; defaults to work_dirs/chaos')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help="as tools/train.py's")
    return parser.parse_args()


def _kill_in_save(number: int, share: float) -> None:
    """This process group ends in save ``number`` (at least 2), after that share of the time that the one before took."""
    put, saves = AtomicLocalBackend.put, []

    def timed_put(self, obj, filepath):
        begin = time.perf_counter()
        if len(saves) + 1 == number:
            threading.Timer(share * saves[-1], os.killpg, (os.getpgrp(), signal.SIGKILL)).start()
        put(self, obj, filepath)
        saves.append(time.perf_counter() - begin)

    AtomicLocalBackend.put = timed_put


def _train(argv: List[str], log: Path, save: Optional[Tuple[int, float]]) -> None:
    """Runs in a process of its own, which leads a group: to kill the group is to kill the data workers too."""
    os.setsid()
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if save:
        _kill_in_save(*save)
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

    def start(self, save: Optional[Tuple[int, float]] = None):
        process = self._context.Process(target=_train, args=(self._argv, self.folder / 'output.log', save))
        process.start()
        return process

    def finish(self) -> Tuple[float, float]:
        """Seconds to the first checkpoint, and to the end."""
        begin, first = time.perf_counter(), None
        process = self.start()
        while process.is_alive():
            process.join(.01)
            if first is None and any(self.folder.glob('*.pth')):
                first = time.perf_counter() - begin
        if process.exitcode:
            raise SystemExit(f'error: the training failed by itself; the end of {self.folder}/output.log:\n'
                             + (self.folder / 'output.log').read_text()[-2000:])
        seconds = time.perf_counter() - begin
        return first or seconds, seconds

    def kill(self, after: Optional[float] = None, save: Optional[Tuple[int, float]] = None) -> bool:
        """Kills a run ``after`` seconds, or in a save (see :func:`_kill_in_save`); False if it came to its end before."""
        process = self.start(save)
        process.join(after)
        if process.is_alive():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it leads no group yet, or has ended just now
                process.kill()
            process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise SystemExit(f'error: a resumed training failed by itself; see {self.folder}/output.log')
        return process.exitcode != 0

    def has_torn_file(self) -> bool:
        return any(self.folder.glob('*.pth.tmp'))


def differences(a, b, path: str = '') -> Iterator[str]:
    """Where two checkpoints differ, by any bit; times and what names the run are left out."""
    if type(a) is not type(b):
        yield f'{path}: {type(a).__name__}, {type(b).__name__}'
    elif isinstance(a, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            inner = f'{path}/{key}'
            if inner in ('/meta/cfg', '/meta/time', '/meta/experiment_name', '/message_hub/runtime_info', *(
                    f'/message_hub/log_scalars/{name}' for name in TIMES)) or inner.startswith('/message_hub/log_scalars/val/'):
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
        warm_up = context.Process(target=os.getpid)  # until here the server imports, which would count as part of the run
        warm_up.start()
        warm_up.join()
        unbroken = Training(context, args, args.work_dir / 'unbroken')
        first, seconds = unbroken.finish()
    broken = Training(context, args, args.work_dir / 'broken')
    kills = in_saves = torn = 0
    for i in track(range(args.kills), 'killing', console=console):
        if i % 2:
            killed = broken.kill(save=(rng.randint(2, 3), rng.uniform(0, 1.2)))
            in_saves += killed
        else:
            killed = broken.kill(after=rng.uniform(0, first + 2 * (seconds - first) / args.kills))
        if not killed:
            break  # the run came to its end
        kills += 1
        torn += broken.has_torn_file()
    with console.status('to the end'):
        broken.finish()

    files = [newest_checkpoint(str(training.folder)) for training in (unbroken, broken)]
    found = list(differences(*map(load_file, files)))
    print(f'{kills} kills, {in_saves} of them in a save; {torn} left a file half written. {files[1]} '
          + ('equals that of the unbroken run, bit by bit.' if not found else 'differs from the unbroken run in:'))
    print(*found, sep='\n', end='\n' if found else '')
    if found:
        raise CheckpointError(f'{len(found)} entries differ.')


if __name__ == '__main__':
    common.run(main)
