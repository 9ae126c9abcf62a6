"""Models as they leave for other programs. To import this, and :class:`Session`, takes neither torch nor OpenMMLab."""
from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from .session import Session

if TYPE_CHECKING:
    from .compaction import compact
    from .semi_structured import to_semi_structured

__all__ = ['Session', 'compact', 'to_semi_structured']
_MODULES = dict(compact='compaction', to_semi_structured='semi_structured')


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f'.{_MODULES[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
