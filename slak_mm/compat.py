"""What other versions of torch and mmengine need, in one place. Imported before anything else of the package."""
import argparse
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import HistoryBuffer

from . import torchvision_cpu


def _statistics_method(owner: type, name: str):
    """Stands in for ``getattr`` in mmengine's own checkpoints, which only ever ask for ``HistoryBuffer.mean`` and the like."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise ValueError(f'getattr({owner!r}, {name!r}) is not allowed in a checkpoint.')
    return getattr(owner, name)


def allow_checkpoint_types() -> None:
    """Lets ``torch.load(weights_only=True)``, the default since torch 2.6, read official files and mmengine's own checkpoints.

    The first hold an ``argparse.Namespace``; the second numpy arrays inside the ``HistoryBuffer`` of the message hub.
    """
    reconstruct, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64, np.uint8)}
    types = [argparse.Namespace, HistoryBuffer, (_statistics_method, 'builtins.getattr'), np.ndarray, np.dtype, *dtypes]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # files move between numpy 1 and 2
        types += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    torch.serialization.add_safe_globals(types)


def resolve_own_configs() -> None:
    """Lets ``_base_ = 'slak_mm::upernet_slak_t_160k_ade20k.py'`` resolve.

    mmengine must know the package; it would insist on a folder before the file's name, which our flat configs/ lacks, and does not
    find packages that were installed with ``pip install -e``.
    """
    MODULE2PACKAGE['slak_mm'] = 'slak_mm'
    stock = Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str):
        scope, _, name = cfg_path.partition('::')
        if scope != 'slak_mm':
            return stock(cfg_path, filename)
        return str(Path(__file__).parent / '.mim/configs' / name), scope

    Config._get_cfg_path = staticmethod(get_cfg_path)


torchvision_cpu.install()
allow_checkpoint_types()
resolve_own_configs()
