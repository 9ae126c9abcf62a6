"""Child registries of mmengine's, so that ``type='slak_mm.Name'`` resolves from any scope with no ``custom_imports``.

What bare names must find too (``type='SLaK'`` after ``custom_imports``) is also entered in mmengine's root registries. And what a
``type`` is, whichever way a config writes it.
"""
from typing import Callable, Optional, TypeVar

from mmengine.config import Config
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry, init_default_scope

__all__ = [
    'HOOKS', 'LIBRARIES', 'MODELS', 'OPTIM_WRAPPERS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'class_of', 'enter_scope', 'is_a', 'library_of',
    'register'
]

LIBRARIES = 'mmpretrain', 'mmdet', 'mmseg'
T = TypeVar('T', bound=type)
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='slak_mm', locations=['slak_mm'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='slak_mm', locations=['slak_mm'])
OPTIM_WRAPPERS = Registry('optimizer wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='slak_mm', locations=['slak_mm'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, scope='slak_mm', locations=['slak_mm'])


def register(registry: Registry) -> Callable[[T], T]:
    """Registers a class under its name in ``registry`` and in its root, so that both spellings of its type are found."""

    def decorator(cls: T) -> T:
        registry.register_module(module=cls)
        registry.parent.register_module(module=cls)
        return cls

    return decorator


def class_of(cfg: Optional[dict], registry: Registry, scope: Optional[str] = None) -> Optional[type]:
    """The class that would be built of a config, whether its ``type`` is a name, with or without scope, a path, or the class itself.

    Args:
        cfg (dict, optional): With ``type``, or without.
        registry (Registry): Where it would be built: one of mmengine's.
        scope (str, optional): The ``default_scope`` of the whole config. Defaults to None: the current one.

    Returns:
        type, optional: None if there is no type, or it is not registered (building it says so better), or a function.
    """
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    if not isinstance(kind, str):
        return kind if isinstance(kind, type) else None
    with registry.switch_scope_and_registry(cfg.get('_scope_') or scope) as current:  # type: ignore[union-attr]
        try:
            found = current.get(kind)
        except RuntimeError:
            found = None
    return found if isinstance(found, type) else None


def is_a(cfg: Optional[dict], name: str, registry: Registry, scope: Optional[str] = None) -> bool:
    """Whether :func:`class_of` a config, or a base of it, is called ``name``: for classes of a library that may be missing."""
    return name in {base.__name__ for base in getattr(class_of(cfg, registry, scope), '__mro__', ())}


def library_of(cfg: Config) -> Optional[str]:
    """The library that a config is for: its ``default_scope``, else the one that its model's class, or a base of that, is from.

    Returns:
        str, optional: One of :data:`LIBRARIES`, or the ``default_scope`` as it is.
    """
    scope = cfg.get('default_scope')
    if scope in LIBRARIES:
        return scope
    bases = getattr(class_of(cfg.get('model'), MMENGINE_MODELS, scope), '__mro__', ())
    origins = [base.__module__.partition('.')[0] for base in bases]
    return next((origin for origin in origins if origin in LIBRARIES), scope)


def enter_scope(cfg: Config) -> None:
    """Has names without a scope looked up, from now on, as a Runner of the config does; with None, each library looks in its own."""
    scope = cfg.get('default_scope', 'mmengine')
    if scope is not None:
        init_default_scope(scope)
