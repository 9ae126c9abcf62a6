"""Which part of a loaded file is the weights, and whether they are weights."""
import re
from typing import Any, Dict, Optional

import torch
from torch import Tensor

from .file import CheckpointError

_REAL = re.compile(r'(^|\.)(weight|bias|gamma|running_mean|running_var)$')
_DTYPES = torch.float64, torch.float32, torch.float16, torch.bfloat16


def _is_state_dict(value) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())


def select_state_dict(checkpoint: dict, key: Optional[str] = None) -> Dict[str, Tensor]:
    """The weights in a loaded file: its entry ``key``; by default ``state_dict``, else ``model``, else the file itself.

    Raises:
        CheckpointError: There is none; the message lists the keys that hold weights. Or ``check_weights`` refuses them.
    """
    choices = [name for name, value in checkpoint.items() if _is_state_dict(value)]
    if key is None:
        key = next((name for name in ('state_dict', 'model') if name in choices), None)
        if key is None and _is_state_dict(checkpoint):
            return check_weights(checkpoint)
    if key not in choices:
        raise CheckpointError(f'The file has no weights under key={key!r}; it has some under {choices}.' if key else
                              f'The file has weights neither at its top level nor under state_dict or model; key= may name one '
                              f'of {choices}.')
    return check_weights(checkpoint[key])


def describe_classes(checkpoint: dict) -> Dict[str, Any]:
    """What a loaded file says of a model's classes, as OpenMMLab 2.x has it.

    Returns:
        dict: ``dataset_meta`` with ``classes``, and ``palette`` and more if they are there; empty if the file has no names of classes.
    """
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict):
        return {}
    found = meta.get('dataset_meta')
    if not isinstance(found, dict):  # OpenMMLab 1.x
        found = {key: meta[key] for key in ('CLASSES', 'PALETTE') if meta.get(key) is not None}
    described = {str(key).lower(): value for key, value in found.items()}
    return dict(dataset_meta=described) if described.get('classes') is not None else {}


def check_weights(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Returns its argument, if its names are strings, and its tensors finite, real numbers where a network has such.

    Raises:
        CheckpointError: They are not; the message names the first one.
    """
    for name, value in state_dict.items():
        fault = None
        if not isinstance(name, str):
            fault = 'is no name of a weight'
        elif _REAL.search(name) and getattr(value, 'dtype', None) not in _DTYPES:
            fault = f'is of type {getattr(value, "dtype", type(value).__name__)}, not float'
        elif isinstance(value, Tensor) and not value.isfinite().all():
            fault = 'has values that are NaN or infinite: the training that wrote it had diverged, or the file is damaged'
        if fault:
            raise CheckpointError(f'{name!r} {fault}. Nothing was loaded. Take another checkpoint.')
    return state_dict
