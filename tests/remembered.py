"""What takes most of the time of a small run: mmengine computes the same again and again, has the text of each config laid out for
people to read and collects garbage for each data set, and a busy disk takes a second to flush."""
import os
from importlib import import_module
from types import SimpleNamespace

# the indices of the libraries' models, for each base of a config; compilers and drivers
FUNCTIONS = {'mmengine.config.utils': 'load', 'mmengine.runner.runner': 'collect_env'}
FORMATTERS = 'mmengine.config.config', 'yapf.yapflib.yapf_api'  # where mmengine and its fork look it up, five times a run


def remember(setattr=setattr) -> None:
    """Lets each compute its results once in a process, leaves the text of configs as it is, which Python reads as well, garbage to
    Python, and lets no file wait for the disk, which only a power failure would show.

    That checkpoints are flushed, and when, is tested by functions in place of ``os.fsync``.
    """
    setattr(os, 'fsync', lambda descriptor: None)
    setattr(import_module('mmengine.dataset.base_dataset'), 'gc', SimpleNamespace(collect=lambda: 0))
    for module, name in FUNCTIONS.items():
        module = import_module(module)
        if hasattr(module, name):
            setattr(module, name, _remembered(getattr(module, name)))
    for module in map(import_module, FORMATTERS):
        if hasattr(module, 'FormatCode'):
            setattr(module, 'FormatCode', lambda text, **_: (text, False))


def _remembered(function):
    results = {}

    def call(*args, **kwargs):
        key = repr((args, kwargs))
        if key not in results:
            results[key] = function(*args, **kwargs)
        return results[key]

    return call
