"""Child registries of mmengine's, so that ``type='slak_mm.Name'`` resolves from any scope with no ``custom_imports``.

What bare names must find too (``type='SLaK'`` after ``custom_imports``) is also entered in mmengine's root registries.
"""
from typing import Callable, TypeVar

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import Registry

__all__ = ['HOOKS', 'MODELS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'PARAM_SCHEDULERS', 'register']

T = TypeVar('T', bound=type)
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='slak_mm', locations=['slak_mm'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='slak_mm', locations=['slak_mm'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, scope='slak_mm', locations=['slak_mm'])
# empty: what inherits a `slak_mm::` config looks for its schedulers here first, and mmengine warns if here is nowhere
PARAM_SCHEDULERS = Registry('parameter scheduler', parent=MMENGINE_PARAM_SCHEDULERS, scope='slak_mm', locations=['slak_mm'])


def register(registry: Registry) -> Callable[[T], T]:
    """Registers a class under its name in ``registry`` and in its root, so that both spellings of its type are found."""

    def decorator(cls: T) -> T:
        registry.register_module(module=cls)
        registry.parent.register_module(module=cls)
        return cls

    return decorator
