from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import PretrainedInit
from .sparsity_hook import SparsityHook

__all__ = ['LayerDecayOptimWrapperConstructor', 'PretrainedInit', 'SparsityHook']
