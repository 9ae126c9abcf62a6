"""Hugging Face's safetensors: names, places and numbers. There is nothing in it that could run."""
import json
import os
from typing import Any, Dict

from torch import Tensor

from ..errors import UserError

SUFFIX = '.safetensors'
META = 'slak_mm'


def is_safetensors(path: str) -> bool:
    """Whether a file is one, by its first bytes: the length of a header, which is a JSON object."""
    with open(path, 'rb') as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b'{' and int.from_bytes(start[:8], 'little') <= os.path.getsize(path) - 8


def read_safetensors(path: str, map_location: Any = 'cpu') -> Dict[str, Any]:
    """Reads a file.

    Args:
        path (str): Of the file.
        map_location: Device of the tensors. Defaults to 'cpu'.

    Returns:
        dict: ``state_dict``; and ``meta``, if this package wrote it: what the classes are called.

    Raises:
        UserError: The safetensors package is not installed.
        ValueError: What this package wrote beside the tensors is damaged. The package raises its own error for the rest.
    """
    with _package().safe_open(path, framework='pt') as file:
        meta = json.loads((file.metadata() or {}).get(META, '{}'))
        state_dict = {name: file.get_tensor(name).to(map_location) for name in file.keys()}
    if not isinstance(meta, dict):
        raise ValueError(f'{META} in its header is no object')
    return dict(meta=meta, state_dict=state_dict)


def write_safetensors(path: str, state_dict: Dict[str, Tensor], meta: Dict[str, Any]) -> None:
    """Writes weights, and what JSON can hold of ``meta``.

    Raises:
        UserError: The safetensors package is not installed.
        ValueError: A tensor is of a type that the format has not.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    _package().torch.save_file(weights, path, {'format': 'pt', META: json.dumps(meta, default=str)})


def _package() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise UserError('Files of this format need a package: pip install safetensors') from None
    return safetensors
