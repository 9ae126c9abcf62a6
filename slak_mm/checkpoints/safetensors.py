"""Hugging Face's safetensors: a length, names and places in JSON, and the numbers. There is nothing in it that could run.

The format is small enough to be read and written without its package:
https://github.com/huggingface/safetensors/blob/main/README.md#format
"""
import json
import math
import os
from typing import Any, Dict, List

import torch
from torch import Tensor

SUFFIX = '.safetensors'
META = 'slak_mm'
MAX_HEADER = 100_000_000  # bytes, as in the package
DTYPES = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, I64=torch.int64, I32=torch.int32,
              I16=torch.int16, I8=torch.int8, U8=torch.uint8, BOOL=torch.bool)
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
        ValueError: The header does not describe what follows it.
    """
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if length > MAX_HEADER:
            raise ValueError(f'its header would be {length:,} bytes long')
        header, data = file.read(length), bytearray(file.read())
    try:
        entries = json.loads(header)
        meta = json.loads(entries.pop('__metadata__', {}).get(META, '{}'))
        end, tensors = 0, {}
        for name, entry in sorted(entries.items(), key=lambda item: item[1]['data_offsets']):
            tensors[name], end = _tensor(entry, data, end), entry['data_offsets'][1]
        if end != len(data) or not isinstance(meta, dict):
            raise ValueError(f'{len(data):,} bytes of data, of which {end:,} are described')
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f'its header is damaged, {type(error).__name__}: {error}') from None
    return dict(meta=meta, state_dict={name: tensors[name].to(map_location) for name in entries})


def _tensor(entry: Dict[str, Any], data: bytearray, begin: int) -> Tensor:
    """One that lies in ``data`` from ``begin`` on: no gaps, and no place twice."""
    dtype, shape, (start, end) = DTYPES[entry['dtype']], entry['shape'], entry['data_offsets']
    if any(type(size) is not int or size < 0 for size in (*shape, start, end)):
        raise ValueError(f'shape {shape} at {start} to {end}')
    count = math.prod(shape)
    if start != begin or end > len(data) or end - start != count * torch.empty(0, dtype=dtype).element_size():
        raise ValueError(f'{shape} of {entry["dtype"]} at {start} to {end}')
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start).clone().view(shape)


def write_safetensors(path: str, state_dict: Dict[str, Tensor], meta: Dict[str, Any]) -> None:
    """Writes weights, and what JSON can hold of ``meta``.

    Raises:
        ValueError: A tensor is of a type that the format has not.
    """
    strange = [name for name, value in state_dict.items() if value.dtype not in _NAMES]
    if strange:
        raise ValueError(f'{strange[0]} is of type {state_dict[strange[0]].dtype}, which safetensors has not.')
    header: Dict[str, Any] = dict(__metadata__={'format': 'pt', META: json.dumps(meta, default=str)})
    parts: List[bytes] = []
    place = 0
    for name, value in state_dict.items():
        parts.append(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        header[name] = dict(dtype=_NAMES[value.dtype], shape=list(value.shape), data_offsets=[place, place + len(parts[-1])])
        place += len(parts[-1])
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        file.writelines(parts)
