"""Runs that can be left alone: checkpoints that are whole, an exact resume, a stop at the first loss that is not finite."""
from . import file_backend  # noqa: F401  (writes checkpoints whole or not at all)
from .checkpoint_hook import CheckpointHook
from .exact_resume_hook import ExactResumeHook
from .invalid_loss_hook import CheckInvalidLossHook, InvalidLossError

__all__ = ['CheckInvalidLossHook', 'CheckpointHook', 'ExactResumeHook', 'InvalidLossError']
