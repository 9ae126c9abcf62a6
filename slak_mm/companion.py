"""A package that is imported when those that it works with are, so that a program without them does not pay for it."""
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any, Callable, Optional


class Companion(MetaPathFinder):
    """Waits for the import of others, and imports a package's own rest after them: once the outermost of the others is complete.

    Args:
        watched (Callable): Tells of a module's full name whether it is one of the others.
        before (Callable): Called with its name before each of them is found. It may import others of them.
        after (Callable): Called once, when the outermost is there.
    """

    def __init__(self, watched: Callable[[str], bool], before: Callable[[str], None], after: Callable[[], None]):
        self._watched, self._before, self._after = watched, before, after
        self._depth = 0

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        if self not in sys.meta_path or not self._watched(fullname):
            return None
        self._depth += 1
        try:
            self._before(fullname)
            found = (finder.find_spec(fullname, path, target) for finder in list(sys.meta_path)
                     if finder is not self and finder in sys.meta_path)
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self._depth -= 1
        if spec is not None and spec.loader is not None:
            self._wrap(spec.loader)
        return spec

    def _wrap(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module):
            loader.exec_module = execute
            self._depth += 1
            try:
                execute(module)
            finally:
                self._depth -= 1
            if not self._depth:
                self.finish()

        loader.exec_module = exec_module

    def finish(self) -> None:
        """Imports the rest, if that was not done yet."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self._after()
