"""Triton's kernels without a GPU."""
import importlib
from contextlib import contextmanager

import pytest

from slak_mm.models.ops import triton_kernels, triton_maps


def reload():
    if triton_kernels.triton is not None:
        language = importlib.import_module('triton.language')
        language.sum = importlib.reload(language.standard).sum  # a kernel too, though it comes with Triton
    for module in (triton_kernels, triton_maps):
        importlib.reload(module)


@contextmanager
def reloaded(interpret):
    """Triton's interpreter, or its compiler, is chosen by the environment when triton.jit decorates the kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRITON_INTERPRET', interpret)
        reload()
        yield
    reload()
