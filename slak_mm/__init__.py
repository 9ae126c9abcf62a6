"""SLaK (Sparse Large Kernel Network) for OpenMMLab 2.x. Importing this package registers everything in it."""
from . import compat  # noqa: F401  (first: the rest relies on it)
from .checkpoints import PretrainedInit
from .implicit_gemm import provide_implicit_gemm
from .models import SLaK
from .reliability import CheckInvalidLossHook, CheckpointHook, ExactResumeHook
from .training import CPUAmpOptimWrapper, LayerDecayOptimWrapperConstructor, SparseExponentialMovingAverage, SparsityHook
from .zoo import get_model, list_models

__version__ = '0.1.0'
__all__ = [
    'CPUAmpOptimWrapper', 'CheckInvalidLossHook', 'CheckpointHook', 'ExactResumeHook', 'LayerDecayOptimWrapperConstructor',
    'PretrainedInit', 'SLaK', 'SparseExponentialMovingAverage', 'SparsityHook', 'get_model', 'list_models', 'provide_implicit_gemm'
]
