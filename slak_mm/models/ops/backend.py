import os
import warnings
from contextlib import contextmanager
from typing import Callable, Dict, Hashable, Iterator

import torch
from torch import Tensor

from . import triton_kernels

BACKENDS = ('auto', 'native', 'onednn', 'triton')
RUNS = 5

_backend = os.environ.get('SLAK_MM_BACKEND', 'auto')
_choices: Dict[Hashable, str] = {}


def set_backend(name: str) -> None:
    """Which implementation of the large-kernel convolution runs, in the whole process; at first, what SLAK_MM_BACKEND says.

    Args:
        name (str): ``'native'``: torch's convolutions and matrix products. ``'onednn'``: the same, with oneDNN's matrix products in
            fp32 on a CPU. ``'triton'``: our kernels, on an NVIDIA GPU. ``'auto'``: on a CPU, onednn or native by a rule
            (``slak_mm.models.ops.products.prefers_onednn``); on a
            GPU, for each shape and dtype, the one that was faster in a measurement when it first came, provided that both agreed;
            with deterministic algorithms, of which each is one, triton without regard to time.

    Raises:
        ValueError: Another name.
    """
    global _backend
    if name not in BACKENDS:
        raise ValueError(f'backend {name!r} is unknown; choose from {BACKENDS} (SLAK_MM_BACKEND, or slak_mm.models.ops.set_backend).')
    _backend = name


def cpu_backend() -> str:
    """The backend that was asked for, as far as it concerns a CPU: ``'auto'``, ``'native'`` or ``'onednn'``."""
    set_backend(_backend)  # the environment's was not checked yet
    return 'native' if _backend == 'triton' else _backend


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """:func:`set_backend` for a block of code."""
    before = _backend
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def choose(x: Tensor, key: Hashable, run: Callable[[], Tensor], compiles: bool = False) -> str:
    """``'native'`` or ``'triton'`` for a call.

    Args:
        x (Tensor): Its input.
        key (Hashable): What the speed depends on.
        run (Callable): The call (and its backward, if it is to have one), under the backend that is set; returns the output.
        compiles (bool): Whether torch.compile takes the Triton kernels, as a custom operator. Defaults to False.

    Raises:
        RuntimeError: ``'triton'`` was asked for and cannot run here.
        ValueError: SLAK_MM_BACKEND is no backend.
    """
    set_backend(_backend)  # the environment's was not checked yet
    # tensor cores know little of float64, and what is traced must be torch's own
    elsewhere = _backend in ('native', 'onednn') or (_backend == 'auto' and not x.is_cuda)
    if elsewhere or x.dtype == torch.float64 or torch.jit.is_tracing():
        return 'native'
    reason = triton_kernels.unavailable_reason(x.device)
    if reason and _backend == 'triton':
        raise RuntimeError(f"backend 'triton' cannot run: {reason}. Choose 'auto' or 'native' (SLAK_MM_BACKEND, or "
                           'slak_mm.models.ops.set_backend).')
    if reason:
        warnings.warn(f'Large kernels run on the slower native backend: {reason}. '
                      "To choose it without this warning, set SLAK_MM_BACKEND=native.", stacklevel=3)
        return 'native'
    if not compiles and torch.compiler.is_compiling():
        return 'native'
    if _backend == 'triton':
        return 'triton'
    alike = torch.are_deterministic_algorithms_enabled()  # times vary, and with them the choice
    key = alike, key
    if key in _choices:
        return _choices[key]
    if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():  # neither can be timed
        return 'native'
    _choices[key] = _better(run, alike)
    return _choices[key]


def _better(run: Callable[[], Tensor], alike: bool) -> str:
    """Triton, if it agrees with torch and is faster; or (``alike``) in any case, as it is nearly everywhere."""
    try:
        outputs, times = zip(*(_measure(name, run) for name in ('native', 'triton')))
    except Exception as error:  # whatever the compiler of a machine we never saw may raise
        warnings.warn(f'Large kernels run on the slower native backend, since the Triton kernels failed: {error!r}. Please report it; '
                      'SLAK_MM_BACKEND=native avoids the attempt.', stacklevel=4)
        return 'native'
    expected, actual = (output.double() for output in outputs)
    difference = ((actual - expected).norm() / expected.norm()).item()
    if not difference < 1e-2:  # bfloat16 and tf32 stay below; NaN does not pass
        warnings.warn('Large kernels run on the slower native backend, since on this machine the Triton kernels differ from it by '
                      f'{difference:.1e}. Please report it; SLAK_MM_BACKEND=native avoids the attempt.', stacklevel=4)
        return 'native'
    return 'triton' if alike or times[1] < times[0] else 'native'


def _measure(name: str, run: Callable[[], Tensor]):
    """Output, and milliseconds of the fastest run."""
    times = []
    with use_backend(name):
        output = run()
        for _ in range(RUNS):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return output, min(times)
