import logging
import zipfile
from pathlib import Path
from typing import Any, Iterator, Optional

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..checkpoints import SCHEME, CheckpointError
from ..checkpoints.file import archive_fault
from ..models.wrappers import unwrap
from ..registry import HOOKS

GRADIENTS_KEY = 'accumulated_gradients'
# what torch's optimizers keep in the shape of each parameter
_MOMENTS = ('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer')


def newest_checkpoint(work_dir: str) -> Optional[str]:
    """The newest checkpoint in ``work_dir`` that is whole; each newer one that is not is skipped with a warning.

    mmengine takes the one that ``last_checkpoint`` names, whatever is in it. Here that file is only the first to be looked at.

    Returns:
        str, optional: Its path; None if there is no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints, but none is whole.
    """
    candidates = list(dict.fromkeys(_candidates(Path(work_dir).absolute())))
    for path in candidates:
        fault = _fault(path)
        if fault is None:
            return str(path)
        print_log(f'{path} is skipped, and the checkpoint before it is used: {fault.rstrip(".")}.', 'current', logging.WARNING)
    if candidates:
        raise CheckpointError(f'None of the {len(candidates)} checkpoints in {work_dir} can be read, so there is nothing to resume. '
                              'Give another with --resume CKPT, or start a new training in another --work-dir.')
    return None


def _candidates(work_dir: Path) -> Iterator[Path]:
    folders = [work_dir]
    try:
        last = (work_dir / 'last_checkpoint').read_text().strip()
    except FileNotFoundError:
        last = ''
    if last:
        yield Path(last).absolute()
        folders.append(Path(last).absolute().parent)
    for folder in dict.fromkeys(folders):
        files = [path for pattern in ('epoch_*.pth', 'iter_*.pth') for path in folder.glob(pattern)]
        yield from sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def _fault(path: Path) -> Optional[str]:
    """Why a checkpoint cannot be whole."""
    if path.is_dir():  # DeepSpeed's
        return None
    if not path.exists():
        return 'it is not there'
    try:
        return archive_fault(str(path)) if zipfile.is_zipfile(path) else 'it is cut short'
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return f'it is damaged ({error})'


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's CheckpointHook, with which nothing is lost: ``default_hooks=dict(checkpoint=dict(type='slak_mm.CheckpointHook'))``.

    - To resume without naming a file takes the newest one that is whole (``newest_checkpoint``).
    - An outdated checkpoint (``max_keep_ckpts``, ``save_best``) is removed after the new one is on the disk, not before.
    - Weights that are not finite are refused: they would take the place of the last good ones.
    - A state of torch's optimizers that does not fit the parameters is refused, of which torch compares the number only.
    - Between two optimizer steps (``accumulative_counts``), the gradients accumulated so far are part of the checkpoint, under
      'accumulated_gradients'; with several processes, their mean, which all go on with.

    Files are written by ``AtomicLocalBackend``. Arguments are mmengine's.

    Raises:
        CheckpointError: Weights are not finite, the optimizer's state does not fit, the file cannot be written, or none can be read.
    """

    _gradients: Optional[dict] = None
    _waiting = False

    def before_run(self, runner) -> None:
        """Chooses what to resume from, if nobody has."""
        if runner._resume and runner._load_from is None:
            newest = newest_checkpoint(runner.work_dir)
            runner._load_from = newest and SCHEME + newest

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keeps accumulated gradients until the optimizer is there."""
        if runner._resume:
            self._gradients = checkpoint.get(GRADIENTS_KEY)

    def before_train(self, runner) -> None:
        """Restores accumulated gradients, and looks at the optimizer's state that was restored."""
        super().before_train(runner)
        if runner._resume:
            _check_moments(runner)
        self.file_backend: Any = _RemoveLater(self.file_backend)
        if self._gradients is not None:
            for name, param in unwrap(runner.model).named_parameters():
                if name in self._gradients:
                    param.grad = self._gradients[name].to(param)
            self._gradients = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Adds accumulated gradients, and looks at the weights."""
        for key in ('state_dict', 'ema_state_dict'):
            for name, value in checkpoint.get(key, {}).items():
                if type(value) in (Tensor, nn.Parameter) and value.is_floating_point() and not value.isfinite().all():
                    raise CheckpointError(
                        f'{name} is not finite after iteration {checkpoint["meta"]["iter"]}: the training has diverged, and its state '
                        'is not saved. Earlier checkpoints are untouched. Lower the learning rate, or clip gradients '
                        '(optim_wrapper.clip_grad), and continue from one of them.')
        if 'optimizer' in checkpoint and self._waiting:
            checkpoint[GRADIENTS_KEY] = {name: param.grad.detach().cpu() for name, param in unwrap(runner.model).named_parameters()
                                         if param.grad is not None}

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        self._waiting = _waiting_gradients(runner)
        if get_world_size() > 1 and self._waiting:
            for param in unwrap(runner.model).parameters():
                if param.requires_grad:
                    param.grad = torch.zeros_like(param) if param.grad is None else param.grad
                    all_reduce(param.grad, 'mean')
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        self.file_backend.remove_now(kept={self.last_ckpt, *best})


class _RemoveLater:
    """A file backend that puts off removing."""

    def __init__(self, backend):
        self._backend, self._outdated = backend, {}

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._outdated[path] = self._backend.remove

    def rmtree(self, path: str) -> None:
        self._outdated[path] = self._backend.rmtree

    def remove_now(self, kept: set) -> None:
        if is_main_process():
            for path, remove in self._outdated.items():
                if path not in kept:  # the new file may have the name of the one it outdates
                    remove(path)
        self._outdated.clear()


def _waiting_gradients(runner) -> bool:
    """Whether gradients wait for an optimizer step, and can be saved."""
    optim_wrapper = runner.optim_wrapper
    if getattr(optim_wrapper, '_accumulative_counts', 1) == 1 or optim_wrapper.should_update():
        return False
    if isinstance(runner.model, FullyShardedDataParallel):
        print_log('CheckpointHook: under FSDP, gradients accumulated since the last optimizer step are not part of a checkpoint, and '
                  'are lost by --resume. Save every multiple of accumulative_counts iterations.', 'current', logging.WARNING)
        return False
    return True


def _check_moments(runner) -> None:
    """Refuses a state of torch's own optimizers at which the next step would fail, or go wrong; others may keep what they like."""
    optimizer: Any = getattr(runner.optim_wrapper, 'optimizer', None)
    if not type(optimizer).__module__.startswith('torch.optim.'):
        return
    names = {param: name for name, param in unwrap(runner.model).named_parameters()}
    states = {param: state for param, state in optimizer.state.items() if state}
    kept = [key for key in _MOMENTS if any(state.get(key) is not None for state in states.values())]
    for param, state in states.items():
        for key in kept:
            value, fault = state.get(key), None
            if not isinstance(value, Tensor):
                fault = 'is missing' if value is None else 'is not a tensor'
            elif value.shape != param.shape:
                fault = f'is {tuple(value.shape)}, not {tuple(param.shape)}'
            elif not value.isfinite().all():
                fault = 'has values that are NaN or infinite'
            if fault:
                raise CheckpointError(
                    f'The state of the optimizer does not fit the model: {key} of {names.get(param, "a parameter")} {fault}. The file '
                    'is damaged, or of another training: give an earlier one with --resume CKPT, or start from its weights with '
                    '--pretrained CKPT.')
