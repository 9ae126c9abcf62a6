"""Triton's kernels without a GPU."""
import importlib
from contextlib import contextmanager

import pytest

from slak_mm.models.ops import triton_kernels, triton_maps


def _parts_of_language():
    language = importlib.import_module('triton.language')
    core = language.core
    classes = (getattr(core, name, None) for name in ('tensor', 'dtype', 'tensor_descriptor_base'))
    return language, [language, core, language.math, *filter(None, classes)]


def _snapshot():
    language, parts = _parts_of_language()
    return [(part, {name: value for name, value in vars(part).items() if name not in vars(language.standard)}) for part in parts]


# Triton's interpreter puts its own functions there, and does not put all of them back: a kernel that calls another leaves some
PRISTINE = [] if triton_kernels.triton is None else _snapshot()


def reload():
    for part, attributes in PRISTINE:
        for name, value in attributes.items():
            if vars(part).get(name) is not value:
                setattr(part, name, value)
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
