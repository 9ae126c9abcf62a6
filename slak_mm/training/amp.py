"""Automatic mixed precision on a CPU, where mmengine has it on accelerators only."""
from contextlib import contextmanager
from typing import Iterator

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from torch import nn

from ..models.precision import autocast_cpu, prepare_cpu_bf16
from ..registry import OPTIM_WRAPPERS, class_of, register


@register(OPTIM_WRAPPERS)
class CPUAmpOptimWrapper(OptimWrapper):
    """``OptimWrapper`` whose forward passes run in bfloat16 on a CPU, where ``AmpOptimWrapper`` wants an accelerator.

    Weights, gradients and the optimizer's moments are float32, and bfloat16 has the range of float32: there is no loss to scale.

    Args:
        **kwargs: Of ``OptimWrapper``.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        prepare_cpu_bf16()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As in ``OptimWrapper``, with autocast to bfloat16."""
        with super().optim_context(model), autocast_cpu():
            yield


def prepare_cpu_amp(cfg: Config) -> None:
    """Lets a config with ``AmpOptimWrapper`` train on a machine without accelerator, by :class:`CPUAmpOptimWrapper`.

    Call it before the Runner is built. It changes nothing where there is an accelerator, and of other optimizer wrappers.

    Args:
        cfg (Config): Of the Runner or FlexibleRunner. Validation that it wants in half precision becomes float32.
    """
    if get_device() != 'cpu':
        return
    wrapper, validation = cfg.get('optim_wrapper'), cfg.get('val_cfg') or {}
    if class_of(wrapper, MMENGINE_OPTIM_WRAPPERS, cfg.get('default_scope')) is AmpOptimWrapper:
        if wrapper.get('dtype') not in (None, 'bfloat16', torch.bfloat16):
            print_log(f'There is no accelerator: training is in bfloat16, not in {wrapper.dtype}.', 'current')
        for name in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(name, None)
        wrapper.type = 'slak_mm.CPUAmpOptimWrapper'
    if validation.pop('fp16', False):
        print_log('There is no accelerator: validation is in float32, since numpy has no bfloat16. tools/test.py --amp tests in it.',
                  'current')
