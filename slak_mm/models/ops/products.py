"""Matrix products on a CPU, by torch or by oneDNN."""
import platform
import warnings
from functools import lru_cache
from typing import Any, Optional

import torch
from torch import Tensor

from .backend import cpu_backend


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, out: Optional[Tensor] = None) -> Tensor:
    """``x @ weight.t() + bias``; all of one dtype, and transposed views are as good as others.

    Args:
        x (Tensor): Shape (rows, in).
        weight (Tensor): Shape (out, in).
        bias (Tensor, optional): Shape (out,). Defaults to None.
        out (Tensor, optional): Shape (rows, out), contiguous: memory that may be used for the result. Defaults to None.

    Returns:
        Tensor: Shape (rows, out).
    """
    if prefers_onednn(x):
        return _pointwise()(x, weight, bias, 'none', [], '')
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


def outer(a: Tensor, b: Tensor, total: Optional[Tensor] = None) -> Tensor:
    """``total + a.t() @ b``, in the memory of ``total``: the gradient of a weight, part by part.

    Args:
        a (Tensor): Shape (rows, M).
        b (Tensor): Shape (rows, N).
        total (Tensor, optional): Shape (M, N), from this function. Defaults to None: zeros.

    Returns:
        Tensor: Shape (M, N), in fp32 if ``a`` has fewer bits: the sum of many parts would lose the small ones.
    """
    if a.dtype in (torch.bfloat16, torch.float16):
        return (a.t() @ b).float() if total is None else total.add_(a.t() @ b)
    if not prefers_onednn(a):
        return a.t() @ b if total is None else total.addmm_(a.t(), b)
    if a.shape[1] > b.shape[1] < len(a):  # a wide result is faster than a tall one, by more than its transposition costs in the end
        return outer(b, a, None if total is None else total.t()).t()
    product = _pointwise()(a.t(), b.t(), None, 'none', [], '')
    return product if total is None else total.add_(product)


def prefers_onednn(x: Tensor) -> bool:
    """Whether products of ``x`` are oneDNN's: in fp32 on a CPU with AVX-512 that is not Intel's, if torch's are MKL's there.

    MKL chooses its code by the maker of the CPU, oneDNN by its instructions. On an AMD EPYC (Zen 4) oneDNN is 5 to 40% faster for
    SLaK's widths. The choice is by rule, not by measurement, since it decides how sums are rounded: a run that is started or resumed
    again gives the same numbers. In bf16 torch calls oneDNN itself.

    Raises:
        RuntimeError: ``'onednn'`` was asked for, and is not in this torch.
        ValueError: SLAK_MM_BACKEND is no backend.
    """
    if not x.is_cpu or x.dtype != torch.float32:
        return False
    backend = cpu_backend()
    if backend == 'onednn' and _pointwise() is None:
        raise RuntimeError("backend 'onednn' cannot run: this torch has no oneDNN, or not its linear layer. Choose 'auto' or 'native' "
                           '(SLAK_MM_BACKEND, or slak_mm.models.ops.set_backend).')
    return backend == 'onednn' or (backend == 'auto' and _is_faster() and _pointwise() is not None)


@lru_cache(maxsize=None)
def _is_faster() -> bool:
    if platform.machine().lower() not in ('x86_64', 'amd64') or not torch.backends.mkl.is_available():
        return False
    capability = getattr(torch.backends, 'cpu', None)  # torch >= 2.1
    return capability is not None and capability.get_cpu_capability() == 'AVX512' and 'GenuineIntel' not in _processor()


def _processor() -> str:
    """What tells the maker of the CPU."""
    try:
        with open('/proc/cpuinfo') as file:
            return file.read()
    except OSError:  # not Linux
        return platform.processor()


@lru_cache(maxsize=None)
def _pointwise() -> Any:
    """oneDNN's linear layer; None where this torch has none."""
    function = getattr(torch.ops.mkldnn, '_linear_pointwise', None)  # private: what torch.compile calls
    if function is None or not torch.backends.mkldnn.is_available():
        return None
    x, weight, bias = torch.arange(6.).view(2, 3), torch.arange(12.).view(4, 3), torch.arange(4.)
    try:
        if torch.allclose(function(x, weight, bias, 'none', [], ''), torch.addmm(bias, x, weight.t())):
            return function
    except Exception as error:  # whatever another torch may raise
        warnings.warn(f"torch's own matrix products are used, since those of oneDNN failed: {error!r}. Please report it; "
                      'SLAK_MM_BACKEND=native avoids the attempt.', stacklevel=4)
    return None
