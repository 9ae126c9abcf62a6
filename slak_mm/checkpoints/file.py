"""Reads a checkpoint that anyone may have made: runs nothing, and believes neither its sizes nor its shapes."""
import hashlib
import os
import pickle
import re
import zipfile
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Tuple
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from torch import Tensor

from ..compat import load_weights_only
from ..errors import UserError
from .packed import unpack_weights
from .safetensors import is_safetensors, read_safetensors

ZIP_HEADER = b'PK\x03\x04'  # torch tells its own format from the one before 1.6 by it


class CheckpointError(UserError, RuntimeError):
    """A file that cannot be loaded, or does not fit. Nothing was loaded."""


@contextmanager
def named(path: str) -> Iterator[None]:
    """Within it, each CheckpointError names the file."""
    try:
        yield
    except CheckpointError as error:
        raise error if path in str(error) else CheckpointError(f'{path}: {error}') from None


def download(url: str) -> str:
    """Downloads a file once and returns its path in ``torch.hub``'s folder.

    The name is made of the whole URL: the official links all end in the same word, and must not share one file.
    """
    name = os.path.basename(urlparse(url).path) or 'checkpoint'
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, f'{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}')
    if is_main_process() and not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        print_log(f'Downloads {url} to {path}', logger='current')
        try:
            torch.hub.download_url_to_file(url, path)
        except OSError as error:
            raise CheckpointError(f'{url} cannot be downloaded ({error}). Download it by other means and give its path.') from error
    barrier()
    return path


def load_file(path: str, map_location='cpu') -> dict:
    """Reads a checkpoint without running anything that it holds: PyTorch's, packed (:func:`.pack_weights`) or not, or safetensors.

    Args:
        path (str): A path or an http(s) URL.
        map_location: As for ``torch.load``. Defaults to 'cpu'.

    Returns:
        dict: What the file holds.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: It is not a checkpoint, is cut short or damaged, asks to run code, unpacks to more than its own size, or holds
            a tensor that is larger than its data, sparse, quantized or without data.
        UserError: It is safetensors, and that package is not installed.
    """
    source = path
    if path.startswith(('http://', 'https://')):
        path = download(path)
        source = f'{source} (kept as {path}; delete that to download it again)'
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path} is not there. README.md says where the official files are.')
    try:
        fault = archive_fault(path)
        read = read_safetensors if is_safetensors(path) else load_weights_only
        checkpoint = None if fault else read(path, map_location)
    except UserError:
        raise
    except Exception as error:  # torch raises a dozen types for a bad file
        message = str(error)
        if isinstance(error, pickle.UnpicklingError) and 'global' in message.lower():
            found = re.search(r'GLOBAL (\S+)', message)
            raise CheckpointError(
                f'{source} is refused: besides weights it holds code or objects{f" ({found[1]})" if found else ""} that would run on '
                'loading. Nothing was run. If you trust its author, save its state_dict alone and load that.') from None
        raise CheckpointError(f'{source} cannot be read: it is cut short or is not a checkpoint '
                              f'({type(error).__name__}: {message.splitlines()[0] if message else "no details"}). '
                              'Compare its size with the original and copy or download it again.') from None
    if fault:
        raise CheckpointError(f'{source} cannot be read: {fault}')
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{source} holds a {type(checkpoint).__name__}, not a dict of weights.')
    for name, tensor in _tensors(checkpoint):
        fault = _tensor_fault(tensor)
        if fault:
            raise CheckpointError(f'{source} is refused: its tensor {name} {fault}. Save it as a plain tensor.')
    try:
        return unpack_weights(checkpoint)
    except ValueError as error:
        raise CheckpointError(f'{source} cannot be read: its packed weights are damaged ({error}). Copy or download it '
                              'again.') from None


def archive_fault(path: str) -> Optional[str]:
    """What torch does not look at: it never compresses, so it has no limit, and it ignores checksums."""
    with open(path, 'rb') as file:
        if file.read(len(ZIP_HEADER)) != ZIP_HEADER:
            return None
        size = os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return (f'it has {size:,} bytes and unpacks to {unpacked:,}, but PyTorch does not compress. If you trust its '
                        'author, unzip it and zip it again without compression (zip -0).')
            damaged = archive.testzip()
    return damaged and (f'{damaged} in it does not have the checksum that it was saved with. Compare the file with the original and '
                        'copy or download it again.')


def _tensors(checkpoint: dict) -> Iterator[Tuple[str, Tensor]]:
    """Name and value of each tensor, however deep; a file may nest without end, or hold itself."""
    pending: List[Tuple[tuple, Any]] = [((), checkpoint)]
    seen = set()
    while pending:
        path, value = pending.pop()
        if isinstance(value, Tensor):
            yield '.'.join(map(str, path[-3:])), value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            pending += [((*path[-2:], key), item) for key, item in items]


def _tensor_fault(tensor: Tensor) -> Optional[str]:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        return 'is sparse, quantized, nested or without data'
    storage = getattr(tensor, 'untyped_storage', tensor.storage)()  # torch >= 2.0 has the first, and warns of the second
    if tensor.numel() * tensor.element_size() > storage.nbytes():
        return f'claims {tensor.numel():,} values, more than the file holds for it'
    return None
