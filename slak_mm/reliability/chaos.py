"""Kills a training with SIGKILL at random moments, and compares what comes of it with an unbroken one, bit by bit."""
import multiprocessing
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from rich.console import Console
from rich.progress import track

from ..checkpoints import load_file
from ..errors import InputError, UserError
from .checkpoint_hook import newest_checkpoint
from .file_backend import AtomicLocalBackend

# what names a run, and times; and validations: one that a kill breaks off is not made up for
LEFT_OUT = r'/meta/(cfg|time|experiment_name)|/message_hub/(runtime_info|(log_scalars|resumed_keys)/(train/(data_)?time|val/.*))'
Start = Callable[[Sequence[str]], None]


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


def _train(start: Start, argv: List[str], log: Path, moment: Optional[str], number: int, share: float) -> None:
    """Runs in a process of its own, which leads a group: to kill the group is to kill the data workers too."""
    os.setsid()
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for owner, method in MOMENTS[moment] if moment else ():
        _kill_in(owner, method, number, share)
    start(argv)


class Training:
    """A training that is started until it is complete.

    Args:
        start (Callable): Trains, given the arguments of ``tools/train.py``; a function that a new process can import.
        argv (Sequence[str]): Of ``tools/train.py``: config and options, without work dir and ``--resume``.
        folder (Path): Work dir, which must not exist yet.
        context: Of multiprocessing, in which processes start. Defaults to None: a fork server.
    """

    def __init__(self, start: Start, argv: Sequence[str], folder: Path, context=None):
        self.folder, self._start = folder, start
        self._context = context or multiprocessing.get_context('forkserver')
        config, *options = argv
        self._argv = [config, '--resume', '--work-dir', str(folder), *options]
        folder.mkdir(parents=True)

    def run(self, moment: Optional[str] = None, number: int = 1, share: float = 0.) -> bool:
        """Runs to the end, or until it is killed; returns whether it was.

        Args:
            moment (str, optional): One of :data:`MOMENTS`, to be killed then. Defaults to None: never.
            number (int): In which call of the moment's method. Defaults to 1.
            share (float): After which share of the time that the call before took. Defaults to 0.

        Raises:
            UserError: It failed by itself.
        """
        log = self.folder / 'output.log'
        process = self._context.Process(target=_train, args=(self._start, self._argv, log, moment, number, share))
        process.start()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise UserError(f'the training failed by itself; the end of {log}:\n' + log.read_text()[-2000:])
        return process.exitcode != 0

    def has_torn_file(self) -> bool:
        """Whether the last kill left a checkpoint half written, under the name that it has until it is whole."""
        return any(self.folder.glob('*.pth.tmp'))

    def result(self) -> str:
        """The newest checkpoint.

        Raises:
            InputError: There is none.
        """
        path = newest_checkpoint(str(self.folder))
        if path is None:
            raise InputError('the config saves no checkpoint. Set default_hooks.checkpoint.interval.')
        return path


class Report(NamedTuple):
    """What came of it: kills by their moment, how many left a file half written, the last checkpoint, and where it differs."""
    kills: Dict[str, int]
    torn: int
    result: str
    differences: List[str]


def torment(broken: Training, expected: dict, kills: int, rng: random.Random, console: Console) -> Report:
    """Kills a training at random moments, half of them while it saves, lets it end, and compares it with an unbroken one.

    Args:
        broken (Training): To be killed.
        expected (dict): Last checkpoint of an unbroken training, as :func:`slak_mm.checkpoints.load_file` reads it.
        kills (int): How often, unless it comes to its end before.
        rng (random.Random): Chooses the moments.
        console (Console): For the progress.
    """
    at_most = max(2 * expected['meta']['iter'] // kills, 1)  # iterations, so that the run ends about when the kills do
    counts: Counter = Counter()
    torn = 0
    for i in track(range(kills), 'killing', console=console):
        moment = 'save' if i % 2 else rng.choice(['iteration'] * 4 + ['start'])
        number = dict(save=rng.randint(1, 2), iteration=rng.randint(1, at_most), start=1)[moment]
        if not broken.run(moment, number, share=rng.uniform(0, 1.2)):
            break  # it came to its end
        counts[moment] += 1
        torn += broken.has_torn_file()
    with console.status('to the end'):
        broken.run()
    result = broken.result()
    return Report(dict(counts), torn, result, list(differences(expected, load_file(result))))


def differences(a: Any, b: Any, path: str = '') -> Iterator[str]:
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
