"""What takes most of the time of a small run: mmengine computes the same again and again, and a busy disk takes a second to flush."""
import os
from importlib import import_module

# the text of a config, five times a run; the indices of the libraries' models, for each base of a config; compilers and drivers
FUNCTIONS = {'mmengine.config.config': 'FormatCode', 'mmengine.config.utils': 'load', 'mmengine.runner.runner': 'collect_env',
             'yapf.yapflib.yapf_api': 'FormatCode'}  # the last is where the forks look it up


def remember(setattr=setattr) -> None:
    """Lets each compute its results once in a process, and no file wait for the disk, which only a power failure would show.

    That checkpoints are flushed, and when, is tested by functions in place of ``os.fsync``.
    """
    setattr(os, 'fsync', lambda descriptor: None)
    for module, name in FUNCTIONS.items():
        module = import_module(module)
        if hasattr(module, name):
            setattr(module, name, _remembered(getattr(module, name)))


def _remembered(function):
    results = {}

    def call(*args, **kwargs):
        key = repr((args, kwargs))
        if key not in results:
            results[key] = function(*args, **kwargs)
        return results[key]

    return call
