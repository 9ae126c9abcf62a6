"""Half precision on any device: a whole model under autocast, and on a CPU what bfloat16 needs there."""
import logging
from contextlib import contextmanager
from functools import lru_cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Iterator, Optional

import torch
from mmengine.logging import print_log
from mmengine.runner.amp import autocast
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..errors import UserError

HALF = torch.bfloat16, torch.float16
CPUINFO = Path('/proc/cpuinfo')
FLAGS = {'avx512_bf16', 'amx_bf16', 'bf16'}  # the last is Arm's


def autocast_forward(model: nn.Module) -> None:
    """Has a model compute under autocast whenever it is called: in bfloat16 on a CPU, in float16 on a GPU. It changes the model.

    Floating-point outputs are float32 nevertheless, in data samples too: numpy, hence metrics and visualizers, has no bfloat16.

    Args:
        model (nn.Module): Of any OpenMMLab library, on the device where it is to run.
    """
    forward, device = model.forward, next(model.parameters()).device.type
    if device == 'cpu':
        prepare_cpu_bf16()

    @wraps(forward)
    def run(*args, **kwargs):
        with autocast_cpu() if device == 'cpu' else autocast(device):
            return as_float(forward(*args, **kwargs))

    model.forward = run  # type: ignore[method-assign]


@contextmanager
def autocast_cpu() -> Iterator[None]:
    """Autocast to bfloat16 on a CPU.

    Raises:
        UserError: An operator in it has no bfloat16; the message names it.
    """
    try:
        with torch.autocast('cpu', torch.bfloat16):
            yield
    except RuntimeError as error:
        if 'bfloat16' not in str(error).lower():
            raise
        raise UserError(f'This model does not run in bfloat16: {error}. Leave out --amp (AmpOptimWrapper in a config).') from error


def as_float(value: Any) -> Any:
    """Tensors in half precision as float32, in sequences and dicts too, which are copied, and in data samples, which are changed."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALF else value
    if type(value) in (list, tuple):
        return type(value)(map(as_float, value))
    if isinstance(value, dict):
        return type(value)((key, as_float(each)) for key, each in value.items())
    if isinstance(value, BaseDataElement):
        for key, each in value.items():
            if isinstance(each, BaseDataElement) or isinstance(each, Tensor) and each.dtype in HALF:
                setattr(value, key, as_float(each))
    return value


@lru_cache(maxsize=None)
def prepare_cpu_bf16() -> None:
    """What bfloat16 on a CPU needs, once in a process: a warning where it is slow, and float32 for operators that do not know it."""
    if has_bf16_instructions() is False:
        print_log('This CPU has no bfloat16 instructions (avx512_bf16 or amx_bf16; bf16 on Arm): --amp WILL BE SLOWER than float32, '
                  'though it saves memory. For speed, leave it out.', 'current', logging.WARNING)
    try:
        import_module('mmcv.ops')
    except ImportError:  # mmcv-lite
        return
    for function in torch.autograd.Function.__subclasses__():
        if function.__module__.startswith('mmcv.ops.'):
            _take_bf16(function)


def _take_bf16(function: Any) -> None:
    """Has a function of mmcv take and return bfloat16, as others do on a GPU; none of its operators for CPUs knows more than float32.

    Its outputs are of its first argument's type: mmdet writes those of RoIAlign into a tensor of it.
    """
    forward, backward = function.forward, function.backward

    @wraps(forward)
    def run(ctx, *args, **kwargs):
        out = forward(ctx, *map(_from_bf16, args), **{key: _from_bf16(value) for key, value in kwargs.items()})
        return _to_bf16(out) if _is_bf16(args[0]) else out

    @wraps(backward)
    def run_backward(ctx, *grads):
        return backward(ctx, *map(_from_bf16, grads))

    function.forward, function.backward = staticmethod(run), staticmethod(run_backward)


def _is_bf16(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_cpu and value.dtype == torch.bfloat16


def _from_bf16(value: Any) -> Any:
    return value.float() if _is_bf16(value) else value


def _to_bf16(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_to_bf16, value))
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def has_bf16_instructions() -> Optional[bool]:
    """Whether this CPU multiplies bfloat16 numbers in hardware; None if nothing here tells."""
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):  # torch's own, private, on x86
        supported = getattr(torch.cpu, name, None)
        if supported is not None and supported():
            return True
    try:
        return not FLAGS.isdisjoint(CPUINFO.read_text().split())
    except OSError:  # not Linux
        return None
