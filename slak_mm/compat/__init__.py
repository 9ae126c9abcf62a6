"""What other versions of torch and mmengine need, in one place: versions.py, imported before anything else of the package that needs
torch; and torchvision_cpu.py, which waits for the import of torchvision."""
from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from . import torchvision_cpu

if TYPE_CHECKING:
    from .versions import HAS_ALLOW_LIST, checkpoint_types, is_compiling, is_functorch_active, load_weights_only, wrap_step

__all__ = ['HAS_ALLOW_LIST', 'checkpoint_types', 'is_compiling', 'is_functorch_active', 'load_weights_only', 'wrap_step']
torchvision_cpu.install()


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module('.versions', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
