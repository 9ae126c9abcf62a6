from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import PretrainedInit
from .sparse_ema import SparseExponentialMovingAverage
from .sparsity_hook import SparsityHook

__all__ = ['LayerDecayOptimWrapperConstructor', 'PretrainedInit', 'SparseExponentialMovingAverage', 'SparsityHook']
