"""SLaK (Sparse Large Kernel Network) for OpenMMLab 2.x. Importing this package registers everything in it.

It does so once torch or a library that needs it has been imported: at once, if one has been before. So a program that only runs
exported files, with :class:`slak_mm.deploy.Session`, imports none of them; and :mod:`slak_mm.sparsity` works without mmengine.
"""
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import compat  # noqa: F401  (it waits for torchvision)
from .companion import Companion

if TYPE_CHECKING:
    from .public import (
        CheckInvalidLossHook,
        CheckpointHook,
        CPUAmpOptimWrapper,
        Distilled,
        DistilledClassifier,
        ExactResumeHook,
        LayerDecayOptimWrapperConstructor,
        MaskPictureHook,
        PretrainedInit,
        SLaK,
        SparseExponentialMovingAverage,
        SparsityHook,
        from_pretrained,
        get_model,
        list_models,
        provide_implicit_gemm,
        push_to_hub,
        save_pretrained,
    )

__version__ = '0.1.0'
__all__ = [
    'CPUAmpOptimWrapper', 'CheckInvalidLossHook', 'CheckpointHook', 'Distilled', 'DistilledClassifier', 'ExactResumeHook',
    'LayerDecayOptimWrapperConstructor', 'MaskPictureHook', 'PretrainedInit', 'SLaK', 'SparseExponentialMovingAverage',
    'SparsityHook', 'from_pretrained', 'get_model', 'list_models', 'provide_implicit_gemm', 'push_to_hub', 'save_pretrained'
]
_OTHERS = 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmseg'
_WITHOUT_THEM = ('slak_mm.companion', 'slak_mm.compat', 'slak_mm.compat.torchvision_cpu', 'slak_mm.deploy',
                 'slak_mm.deploy.description', 'slak_mm.deploy.runtime', 'slak_mm.deploy.session', 'slak_mm.errors')


def _concerns(name: str) -> bool:
    return name in _OTHERS or name.startswith('slak_mm.') and name not in _WITHOUT_THEM


def _prepare(name: str) -> None:
    """What other versions need comes before all that relies on it, and after what it needs itself."""
    if name not in ('torch', 'torchvision', 'mmengine', 'slak_mm.compat.versions') and find_spec('mmengine') is not None:
        import_module('slak_mm.compat.versions')


def _register() -> None:
    if find_spec('mmengine') is not None:
        public = import_module('slak_mm.public')
        globals().update({name: getattr(public, name) for name in __all__})


def __getattr__(name: str) -> Any:
    if f'{__name__}.{name}' in _WITHOUT_THEM:
        return import_module(f'{__name__}.{name}')
    if not name.startswith('__'):
        _companion.finish()
        if name in globals():
            return globals()[name]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


_companion = Companion(_concerns, _prepare, _register)
if any(sys.modules.get(name) for name in _OTHERS):
    _register()
else:
    sys.meta_path.insert(0, _companion)
