"""What other versions of torch and mmengine need, in one place. Imported before anything else of the package."""
import argparse
import functools
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Callable
from unittest import mock

import numpy as np
import torch
from mmengine import hub
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

PACKAGE = Path(__file__).parents[1]
# of an installation; in a checkout, where git or an archive may have made a small file of the link that .mim/configs is, the folder
CONFIGS = PACKAGE.parent / 'configs' if (PACKAGE / '.mim/configs').is_file() else PACKAGE / '.mim/configs'
CONFIG_FOLDERS = CONFIGS, CONFIGS / 'ablations'  # where a config is found by its name alone
HAS_ALLOW_LIST = digit_version(torch.__version__) >= digit_version('2.6.0')


def is_compiling() -> bool:
    """Whether torch.compile or torch.export is tracing the code; False before torch 2.1."""
    return hasattr(torch, 'compiler') and hasattr(torch.compiler, 'is_compiling') and torch.compiler.is_compiling()


def is_functorch_active() -> bool:
    """Whether a transform of ``torch.func`` (grad, vmap, jacrev ...) is at work; False before torch 2.0."""
    active = getattr(torch._C, '_are_functorch_transforms_active', None)
    return not is_compiling() and active is not None and active()


def wrap_step(optimizer: torch.optim.Optimizer, before: Callable, after: Callable) -> None:
    """Has ``before(optimizer)`` and ``after(optimizer)`` called around each step of an optimizer.

    torch's own hooks came with 2.0, and in 2.0 and 2.1 at least torch.compile takes them from optimizers that are built later.
    """
    step = optimizer.step

    @functools.wraps(step)
    def wrapped(*args, **kwargs):
        before(optimizer)
        loss = step(*args, **kwargs)
        after(optimizer)
        return loss

    if 'torch._dynamo' in sys.modules:  # mmengine compiles whole train steps; torch 2.13 fails on its groups of parameters
        wrapped = torch.compiler.disable(wrapped)
    optimizer.step = wrapped  # type: ignore[method-assign]  # as mmengine and torch's schedulers do


def _statistics_method(owner: type, name: str):
    """Stands in for ``getattr`` in mmengine's own checkpoints, which only ever ask for ``HistoryBuffer.mean`` and the like."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise ValueError(f'getattr({owner!r}, {name!r}) is not allowed in a checkpoint.')
    return getattr(owner, name)


def _number_dtype(name: str, align: bool = False, copy: bool = True) -> np.dtype:
    """Stands in for ``np.dtype``: one of objects could be made to take a file's bytes for addresses."""
    dtype = np.dtype(name, align, True)  # a copy, since its state is set afterwards
    if dtype.kind not in 'biuf':
        raise ValueError(f'dtype {name!r} is not allowed in a checkpoint.')
    return dtype


def checkpoint_types() -> dict:
    """Name to class or function: what official files and mmengine's own checkpoints hold besides tensors and plain Python.

    The first an ``argparse.Namespace``; the second numpy arrays in the ``HistoryBuffer`` of the message hub.
    """
    types = {'argparse.Namespace': argparse.Namespace, 'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
             'builtins.getattr': _statistics_method, 'numpy.ndarray': np.ndarray, 'numpy.dtype': _number_dtype}
    for kind in (np.float32, np.float64, np.int64, np.uint8):
        dtype = type(np.dtype(kind))
        types[f'{dtype.__module__}.{dtype.__name__}'] = dtype
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # files move between numpy 1 and 2
        types[f'{module}._reconstruct'] = np.zeros(0).__reduce__()[0]
        types[f'{module}.scalar'] = np.float64(0).__reduce__()[0]
    return types


class _RestrictedPickle:
    """A ``pickle_module`` for ``torch.load`` that finds tensors, their storages and :func:`checkpoint_types`, and nothing else."""

    class Unpickler(pickle.Unpickler):

        def find_class(self, module: str, name: str):
            module = {'__builtin__': 'builtins'}.get(module, module)
            if (module, name) in (('collections', 'OrderedDict'), ('_codecs', 'encode'), ('builtins', 'set')):
                return super().find_class(module, name)
            if module == 'torch' and (name.endswith('Storage') or name in ('Size', 'device')):
                return super().find_class(module, name)
            if module == 'torch._utils' and name in ('_rebuild_tensor_v2', '_rebuild_parameter'):
                return super().find_class(module, name)
            try:
                return checkpoint_types()[f'{module}.{name}']
            except KeyError:
                raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name} is not allowed') from None

    @classmethod
    def load(cls, file, **kwargs):
        return cls.Unpickler(file, **kwargs).load()


def load_weights_only(path: str, map_location, restricted: bool = not HAS_ALLOW_LIST):
    """``torch.load`` that runs nothing a file holds, on any torch.

    Before torch 2.6 ``weights_only`` has no allow-list by name, hence refuses official files: pickle itself is restricted then.
    """
    if not restricted:
        return torch.load(path, map_location=map_location, weights_only=True)
    # torch 1.13 ignores its argument pickle_module and takes the module that it imported: it would run what a file holds
    with mock.patch.object(torch.serialization, 'pickle', _RestrictedPickle):
        return torch.load(path, map_location=map_location, pickle_module=_RestrictedPickle, weights_only=False)


def check_configs() -> None:
    """Raises a FileNotFoundError if the installation has no configs."""
    if not CONFIGS.is_dir():
        raise FileNotFoundError(f'{CONFIGS} is not a folder: this slak_mm was installed without its configs, as from a checkout or an '
                                'archive whose symbolic links were lost. Install it again, with a newer setup.py or from a wheel.')


def find_config(name: str) -> Path:
    """The file of a config of ours by its name alone, ``NAME.py``, though it lies in a folder of configs/; or by its path there.

    Raises:
        FileNotFoundError: The installation has no configs at all.
    """
    check_configs()
    return next((folder / name for folder in CONFIG_FOLDERS if (folder / name).is_file()), CONFIGS / name)


def resolve_own_configs() -> None:
    """Lets ``_base_ = 'slak_mm::upernet_slak_t_160k_ade20k.py'`` resolve.

    mmengine must know the package; it would insist on a folder before the file's name, which our flat configs/ lacks, and does not
    find packages that were installed with ``pip install -e``. ``mmengine.hub.get_config('slak_mm::...')`` likewise.

    Names without a scope stay as they are: our configs are written for the scope of a library, their ``default_scope``. mmengine would
    look them up in the package's, where ``EMAHook`` is not mmpretrain's.
    """
    MODULE2PACKAGE['slak_mm'] = 'slak_mm'
    if find_spec('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'  # the fork is called onedl-mmsegmentation; by the module's name both are found
    stock, stock_get_config = Config._get_cfg_path, hub.get_config

    def get_cfg_path(cfg_path: str, filename: str):
        scope, _, name = cfg_path.partition('::')
        if scope != 'slak_mm':
            return stock(cfg_path, filename)
        return str(find_config(name)), None

    def get_config(cfg_path: str, pretrained: bool = False) -> Config:
        if not cfg_path.startswith('slak_mm::'):
            return stock_get_config(cfg_path, pretrained)
        if pretrained:
            raise ValueError('slak_mm downloads no weights; slak_mm.get_model(NAME, pretrained=FILE_OR_URL) loads those you have.')
        return Config.fromfile(get_cfg_path(cfg_path, '')[0])

    Config._get_cfg_path = staticmethod(get_cfg_path)
    hub.get_config = hub.hub.get_config = get_config


if HAS_ALLOW_LIST:
    # so that mmengine's own torch.load resumes and tests, in the stock tools too
    torch.serialization.add_safe_globals([(value, name) for name, value in checkpoint_types().items()])
resolve_own_configs()
