"""A config made for a run that can be left alone. Each function changes the config that it is given."""
from typing import Any, Dict

from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from ..checkpoints import source
from ..registry import HOOKS, class_of
from .checkpoint_hook import newest_checkpoint

RELIABLE_HOOKS: Dict[str, Dict[str, Any]] = dict(
    checkpoint=dict(type='slak_mm.CheckpointHook', interval=1),
    exact_resume=dict(type='slak_mm.ExactResumeHook'),
    check_loss=dict(type='slak_mm.CheckInvalidLossHook'))


def set_resume(cfg: Config, resume: str) -> None:
    """``--resume``: from a checkpoint, or with 'auto' from the newest that is whole in ``cfg.work_dir``, if there is any."""
    checkpoint = newest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    cfg.resume = checkpoint is not None
    cfg.load_from = checkpoint and source(checkpoint)


def set_reliable_hooks(cfg: Config) -> None:
    """Adds the hooks with which a run can be left alone (docs/reliability.md). Those that the config sets to None stay out."""
    hooks = cfg.get('default_hooks', {})
    cfg.default_hooks = {**RELIABLE_HOOKS, **hooks}
    for name in ('exact_resume', 'check_loss'):
        if cfg.default_hooks[name] is None:
            cfg.default_hooks.pop(name)
    checkpoint = cfg.default_hooks.checkpoint
    if checkpoint and class_of(checkpoint, HOOKS, cfg.get('default_scope')) is CheckpointHook:
        checkpoint.type = RELIABLE_HOOKS['checkpoint']['type']
