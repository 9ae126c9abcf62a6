"""What mmengine calls while it trains."""
from . import distributed  # noqa: F401  (lets FlexibleRunner save and resume)
from .amp import CPUAmpOptimWrapper
from .distillation import Distilled, DistilledClassifier, FDLoss, KDLoss, NKDLoss
from .layer_decay import LayerDecayOptimWrapperConstructor
from .sparse_ema import SparseExponentialMovingAverage
from .sparsity_hook import SparsityHook

__all__ = [
    'CPUAmpOptimWrapper', 'Distilled', 'DistilledClassifier', 'FDLoss', 'KDLoss', 'LayerDecayOptimWrapperConstructor', 'NKDLoss',
    'SparseExponentialMovingAverage', 'SparsityHook'
]
