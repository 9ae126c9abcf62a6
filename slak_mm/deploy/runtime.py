"""Exported files at work: one way to run them, whatever runs them."""
import ctypes
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Union

import numpy as np

from ..errors import InputError, UserError, in_one_line
from .description import KEY, unpack


class Runtime:
    """An exported file, open.

    Attributes:
        path (Path): Of the file.
        description (dict): See :mod:`slak_mm.deploy.description`.
    """

    def __init__(self, path: Union[str, Path], text: str):
        self.path, self.description = Path(path), unpack(text, path)

    def run(self, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Images (N, C, H, W), as the description wants them, to outputs by their names.

        Raises:
            InputError: The images are of another type or size.
        """
        self.check(images)
        return dict(zip(self.description['outputs'], self._run(images)))

    def _run(self, images: np.ndarray) -> Any:
        raise NotImplementedError

    def check(self, images: np.ndarray) -> None:
        """Raises an InputError if the file does not take these images."""
        wanted = self.description['input']
        (batch, channels), size = images.shape[:2], images.shape[2:]
        if images.dtype != wanted['dtype']:
            raise InputError(f'{self.path} takes images of {wanted["dtype"]}, these are of {images.dtype}. '
                             + ('Its pre-processing is inside: give it pixels.' if wanted['dtype'] == 'uint8' else
                                'Give it normalized images, or export with --preprocess.'))
        if channels != wanted['channels']:
            raise InputError(f'{self.path} takes images of {wanted["channels"]} channels, these have {channels}.')
        if wanted['batch'] is not None and batch != wanted['batch']:
            raise InputError(f'{self.path} takes {wanted["batch"]} image at a time, these are {batch}.')
        if wanted['size'] is not None and size != tuple(wanted['size']):
            raise InputError(f'{self.path} takes images of {"x".join(map(str, wanted["size"]))} pixels (height x width), this one has '
                             f'{"x".join(map(str, size))}. Export with another --shape, or with --free-size.')
        if any(given < least for given, least in zip(size, wanted['min_size'])):
            raise InputError(f'{self.path} takes images from {"x".join(map(str, wanted["min_size"]))} pixels on (height x width), '
                             f'this one has {"x".join(map(str, size))}.')


class OnnxRuntime(Runtime):
    """A file of ONNX in onnxruntime, on a CPU.

    Args:
        path (str | Path): Of the file.
        content (bytes, optional): What is in it. Defaults to None: it is read.
        threads (int): Defaults to 0: one for each core.
    """

    def __init__(self, path: Union[str, Path], content: Optional[bytes] = None, threads: int = 0):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors alone
        try:
            self.session = onnxruntime.InferenceSession(content or str(path), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # its exceptions have no base of their own
            raise unreadable(path, error) from error
        super().__init__(path, self.session.get_modelmeta().custom_metadata_map.get(KEY, ''))

    def _run(self, images: np.ndarray) -> Any:
        return self.session.run(self.description['outputs'], {self.description['input']['name']: images})


class OpenVINO(Runtime):
    """A file of OpenVINO's format, on a CPU.

    Args:
        path (str | Path): Of the ``.xml``; the ``.bin`` is next to it.
        model (openvino.Model, optional): What is in it. Defaults to None: it is read.
        threads (int): Defaults to 0: one for each core.
        bf16 (bool): Whether to compute in bfloat16. Defaults to False: in float32. A processor without instructions for it, see
            :func:`computes_bf16`, takes many times longer, of which it warns.
    """

    def __init__(self, path: Union[str, Path], model: Any = None, threads: int = 0, bf16: bool = False):
        import openvino
        settings: Dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'bf16' if bf16 else 'f32'}
        if threads:
            settings['INFERENCE_NUM_THREADS'] = threads
        core = openvino.Core()
        if bf16 and not computes_bf16():
            warnings.warn('This CPU has no bfloat16 instructions: OpenVINO IMITATES THEM, MANY TIMES SLOWER than float32 (33 with '
                          'SLaK-T). For speed, leave out --amp, bf16=True in Python.', stacklevel=2)
        try:
            model = model or core.read_model(str(path))
            text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else ''
            with kept_signal_stack():
                self.compiled = core.compile_model(model, 'CPU', settings)
        except RuntimeError as error:
            raise unreadable(path, error) from error
        super().__init__(path, text)

    def _run(self, images: np.ndarray) -> Any:
        return list(self.compiled([images]).values())


def computes_bf16() -> bool:
    """Whether OpenVINO finds bfloat16 instructions in this CPU."""
    import openvino
    return 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def unreadable(path: Union[str, Path], error: Exception) -> InputError:
    return InputError(f'{path} cannot be read: it is cut short, of another format, or lacks a part. Export it again. '
                      f'({in_one_line(error, 200)})')


def open_exported(path: Union[str, Path], bf16: bool = False, threads: int = 0) -> Runtime:
    """The runtime of a file, by its suffix.

    Args:
        path (str | Path): ``.onnx``, ``.xml``, ``.pt2`` or ``.pte``; the last two need torch.
        bf16 (bool): Compute in bfloat16; OpenVINO alone can. Defaults to False.
        threads (int): Defaults to 0: one for each core.

    Raises:
        UserError: The runtime is not installed.
        InputError: The file is not there, cannot be read, or another program wrote it.
    """
    if not Path(path).is_file():
        raise InputError(f'{path}: there is no such file.')
    suffix = Path(path).suffix.lower()
    if suffix != '.xml' and bf16:
        raise InputError(f'{path} is computed in float32. For bfloat16 export to .xml, for OpenVINO.')
    with needing():
        if suffix == '.xml':
            return OpenVINO(path, threads=threads, bf16=bf16)
        if suffix == '.onnx':
            return OnnxRuntime(path, threads=threads)
        from . import torch_files
        return torch_files.AOTInductor(path) if suffix == '.pt2' else torch_files.ExecuTorch(path)


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""
    _fields_ = [('ss_sp', ctypes.c_void_p), ('ss_flags', ctypes.c_int), ('ss_size', ctypes.c_size_t)]


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """A context after which signal handlers run on the stack on which they ran before.

    Each object of OpenVINO that compiles gives them one of its own, and gives back the one before when it goes. Of two that go in the
    order in which they came, the second gives back the first's, which is gone: the next signal would end the process.
    """
    if sys.platform != 'linux':
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


@contextmanager
def needing() -> Iterator[None]:
    """A context in which an optional package may be imported: one that is missing is a UserError."""
    try:
        yield
    except ImportError as missing:
        raise UserError(f'{missing.name or missing} is not installed: pip install "slak_mm[deploy]"') from missing


def fill(pixels: np.ndarray, description: Dict[str, Any]) -> np.ndarray:
    """A smaller image in the upper left corner of one as large as a detector's file takes, as padding after normalization has it.

    Args:
        pixels (ndarray): (H, W, C), as the file takes them.
        description (dict): Of the file.

    Returns:
        ndarray: Of the same type. The image itself, if the file is none of a detector of one size, or the image is larger.
    """
    known, size = description['preprocess'], description['input']['size']
    if description['task'] != 'detection' or size is None or any(np.greater(pixels.shape[:2], size)):
        return pixels
    value: Any = 0.
    if known['inside'] and known['mean'] is not None:  # pixels that become zeros
        value = np.round(known['mean'])[::-1 if known['swap'] else 1]
    filled = np.full((*size, pixels.shape[2]), value, pixels.dtype)
    filled[:pixels.shape[0], :pixels.shape[1]] = pixels
    return filled
