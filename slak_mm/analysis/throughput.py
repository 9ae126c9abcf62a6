"""How long things take, how much memory they need, and how that grows."""
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Sequence, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

T = TypeVar('T')


def synchronize() -> None:
    """Waits for the GPU, if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _sample(case: Callable[[], object], calls: int) -> float:
    """Seconds of a call, the mean of several in a row."""
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        case()
    synchronize()
    return (time.perf_counter() - start) / calls


def interleaved(cases: Mapping[str, Callable[[], object]], repeats: int, calls: int = 1) -> Dict[str, List[float]]:
    """Seconds of each case: all run in order, ``repeats`` times over, after a round that does not count.

    Args:
        cases (dict[str, Callable]): What to measure.
        repeats (int): Number of samples of each case.
        calls (int): A sample is the mean of this many calls in a row; with several, a GPU need not wait for each to be launched.
            Defaults to 1.
    """
    seconds: Dict[str, List[float]] = {name: [] for name in cases}
    for repeat in track(range(repeats + 1), 'measuring', console=Console(stderr=True)):
        for name, case in cases.items():
            took = _sample(case, calls)
            if repeat > 0:
                seconds[name].append(took)
    return seconds


def timed(cases: Mapping[str, Callable[[], object]], seconds: float, deadline: float = math.inf,
          least: float = .02) -> Dict[str, List[float]]:
    """Seconds of a call of each case: all run in turn, until each had its time.

    Args:
        cases (dict[str, Callable]): What to measure. Two calls of each come first, and do not count.
        seconds (float): Of each case. A slow one gets one sample at least.
        deadline (float): On the clock of ``time.monotonic``; from then on no sample is begun, and a case may have none, and then no
            entry. Defaults to inf.
        least (float): Seconds of a sample, which is the mean of as many calls in a row. Defaults to .02.
    """
    samples: Dict[str, List[float]] = {}
    calls = {}
    for name, case in track(cases.items(), 'warming up', console=Console(stderr=True)):
        if time.monotonic() < deadline:
            _sample(case, 1)
            calls[name] = max(1, int(least / max(_sample(case, 1), 1e-9)))
    waiting = {name: seconds for name in calls}
    while waiting and time.monotonic() < deadline:
        for name in list(waiting):
            took = _sample(cases[name], calls[name])
            samples.setdefault(name, []).append(took)
            waiting[name] -= took * calls[name]
            if waiting[name] <= 0:
                del waiting[name]
    return {name: samples[name] for name in cases if name in samples}


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """p of the power law ``seconds = c * sizes ** p`` that fits best: least squares in log-log."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _resident_peak() -> int:
    """Bytes of memory that this process held at most. Linux's ``ru_maxrss`` would begin with the peak of the parent process."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM:'))
    return int(line.split()[1]) * 1024


def peak_memory(run: Callable[[], object], device: str = 'cpu') -> int:
    """Bytes that ``run`` adds, at its peak, to what is held when it begins.

    On a CPU it is resident memory (Linux only), which includes what earlier work freed and this process kept, so that the measure
    wants :func:`in_fresh_process`. On a GPU it is what torch allocated.
    """
    if device == 'cpu':
        Path('/proc/self/clear_refs').write_text('5')  # the peak becomes what is held now
        before = _resident_peak()
        run()
        return _resident_peak() - before
    torch.cuda.init()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def in_fresh_process(function: Callable[..., T], *args: object) -> T:
    """``function(*args)``, computed by a new process; the function must be importable, and all of it picklable."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *args).result()
