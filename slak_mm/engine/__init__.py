from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import PretrainedInit

__all__ = ['LayerDecayOptimWrapperConstructor', 'PretrainedInit']
