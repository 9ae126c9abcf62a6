from . import distributed, file_backend  # noqa: F401  (mends FlexibleRunner; writes checkpoints whole or not at all)
from .checkpoint_hook import CheckpointHook
from .exact_resume_hook import ExactResumeHook
from .invalid_loss_hook import CheckInvalidLossHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import PretrainedInit
from .sparse_ema import SparseExponentialMovingAverage
from .sparsity_hook import SparsityHook

__all__ = [
    'CheckInvalidLossHook', 'CheckpointHook', 'ExactResumeHook', 'LayerDecayOptimWrapperConstructor', 'PretrainedInit',
    'SparseExponentialMovingAverage', 'SparsityHook'
]
