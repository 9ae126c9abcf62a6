"""Several processes: on CPUs, and by the strategies of mmengine's FlexibleRunner."""
import atexit
import datetime
import gc
import importlib
import logging
import os
import sys
import time
from typing import Any, Dict

import torch
from mmengine import _strategy
from mmengine._strategy import DDPStrategy
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS, STRATEGIES
from mmengine.runner import FlexibleRunner, weights_to_cpu
from mmengine.utils import digit_version
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..errors import UserError
from ..registry import is_a

VARIABLES = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


class LaunchError(UserError, ValueError):
    """Processes were started in a way that cannot work."""


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` of a model on the CPU, where mmengine's own wants a GPU for each process.

    A SyncBN becomes a BN, as mmengine does in a single process, since torch has it on GPUs alone.

    Args:
        module (nn.Module): The model.
        device_ids (list[int], optional): Not used; mmengine passes it.
        **kwargs: Of ``MMDistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids=None, **kwargs):
        count = sum(type(layer).__name__ == 'SyncBatchNorm' for layer in module.modules())
        if count:
            module = revert_sync_batchnorm(module)
            print_log(f'SyncBN works on GPUs only: {count} layers became BN, and each process NORMALISES BY ITS PART OF THE BATCH. '
                      "If the result must not depend on the number of processes, set norm_cfg=dict(type='GN', num_groups=1), or "
                      'train in one process.', 'current', logging.WARNING)
        super().__init__(module, device_ids=None, **kwargs)


def prepare_cpu_launch(cfg: Config) -> None:
    """Makes ``launcher='pytorch'`` work on a machine without accelerator, where mmengine insists on CUDA: processes talk by gloo.

    Call it before the Runner is built. It changes nothing where there is an accelerator, and with ``launcher='none'``. The timeout
    is that of ``cfg.env_cfg.dist_cfg``; by default it is torch's, 30 minutes.

    Args:
        cfg (Config): Of the Runner or FlexibleRunner; gets a model wrapper for the CPU unless it names one.

    Raises:
        LaunchError: The process was not started by torchrun, or the launcher is another one.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if cfg.launcher != 'pytorch' or missing:
        raise LaunchError(
            f'--launcher {cfg.launcher} does not start here: there is no accelerator, and several processes on CPUs need --launcher '
            f'pytorch under torchrun, which sets {", ".join(VARIABLES)} (missing: {", ".join(missing) or "none"}). Use '
            'tools/dist_train.sh or tools/dist_test.sh.')
    if not is_distributed():
        timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        if digit_version(torch.__version__) >= digit_version('2.0'):
            importlib.import_module('torch._dynamo')  # DDP imports it; when that is after the next line, it keeps the group for ever
        torch.distributed.init_process_group('gloo', timeout=timeout and datetime.timedelta(seconds=timeout))
        atexit.register(leave_process_group)
    wrapper: Dict[str, Any] = dict(type='CPUDistributedDataParallel', broadcast_buffers=False)
    if 'runner_type' not in cfg:
        if cfg.get('model_wrapper_cfg') is None:
            cfg.model_wrapper_cfg = dict(wrapper, find_unused_parameters=cfg.get('find_unused_parameters', False))
    else:
        cfg.setdefault('strategy', dict(type='DDPStrategy'))
        wrappers: Dict[str, Dict[str, Any]] = dict(FSDPStrategy=dict(device_id='cpu'), DDPStrategy=wrapper)
        kind = next((name for name in wrappers if is_a(cfg.strategy, name, STRATEGIES, cfg.get('default_scope'))), None)
        cfg.strategy.model_wrapper = {**wrappers.get(kind or '', {}), **(cfg.strategy.get('model_wrapper') or {})}
        if kind == 'FSDPStrategy':
            # what torch offloads from a CPU to the CPU shares memory that it uses again
            cfg.strategy.state_dict_cfg = dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig', rank0_only=True, offload_to_cpu=False),
                optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True, offload_to_cpu=False))


def leave_process_group() -> None:
    """Ends the threads of gloo, before the interpreter does.

    Such a thread may still want Python's lock, to free a tensor. An interpreter that ends does not give it: before Python 3.14 the
    process then aborts, although its work is done. Threads end with the group, and the group with the last model that uses it.

    While it waits for Python's lock, the thread holds another, which the end of its group waits for with Python's held: for ever. So
    the groups outlive the models for half a second, in which nobody else wants Python's lock.
    """
    if torch.distributed.is_initialized():
        groups = list(getattr(torch.distributed.distributed_c10d._world, 'pg_map', ()))
        torch.distributed.destroy_process_group()
        for name in ('last_exc', 'last_value', 'last_traceback'):  # after an error they hold the frames, hence the model
            sys.__dict__.pop(name, None)
        gc.collect()
        time.sleep(.5)
        groups.clear()


def fix_flexible_runner() -> None:
    """Lets FlexibleRunner save and resume: mmengine 0.10 has three faults, each of which ends a run.

    - DDPStrategy saves weights under the wrapper's names, 'module.' before each, which EMAHook and other programs do not know.
    - FSDPStrategy passes arguments in the order of torch before 2.1 when it loads the optimizer.
    - Checkpoints are loaded before the hooks' ``before_run``, in which EMAHook makes the average to load into. Runner has it right.
    """

    def model_state_dict(self) -> dict:
        return weights_to_cpu(self.model.module.state_dict())

    def load_optim_state_dict(self, state_dict: dict) -> None:
        self.optim_wrapper.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict))

    stock_load, stock_call = FlexibleRunner.load_or_resume, FlexibleRunner.call_hook

    def load_or_resume(self) -> None:
        self.call_hook('before_run')
        self._before_run_is_done = True
        stock_load(self)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        if fn_name != 'before_run' or not self.__dict__.pop('_before_run_is_done', False):
            stock_call(self, fn_name, **kwargs)

    DDPStrategy.model_state_dict = model_state_dict
    if hasattr(_strategy, 'FSDPStrategy'):  # torch >= 2.0
        _strategy.FSDPStrategy.load_optim_state_dict = load_optim_state_dict
    FlexibleRunner.load_or_resume, FlexibleRunner.call_hook = load_or_resume, call_hook


fix_flexible_runner()
