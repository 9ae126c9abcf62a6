"""Whether a layer may compute what its children would, faster, without calling them.

It may if they are as it built them, and if nobody but torch.compile records or transforms what runs. Otherwise each child is called,
so that whoever edits, replaces, hooks or traces children of a layer is obeyed.
"""
from typing import Any, Tuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

from ..compat import is_compiling, is_functorch_active


def has_hooks(module: nn.Module) -> bool:
    """Whether someone waits for the module to be called, so that its function alone would not do."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or getattr(module, '_backward_pre_hooks', None))  # torch >= 2.0


def is_untouched(module: nn.Module, kind: type, *tensors: str) -> bool:
    """Whether a call of ``module`` is the plain function of ``kind`` on its tensors.

    It is not if the module was replaced, wrapped or hooked (which is how parametrizations, LoRA, pruning, quantization, FSDP and
    observers work), or if its ``forward`` or a tensor was exchanged for another type.

    Args:
        module (nn.Module): Any.
        kind (type): What it was built as. No subclass will do.
        tensors (str): Names of the tensors that it must have.
    """
    return (type(module) is kind and not has_hooks(module) and 'forward' not in module.__dict__
            and all([is_plain_tensor(getattr(module, name)) for name in tensors]))


def settings(conv: nn.Conv2d) -> Tuple:
    """How a convolution computes, but for its weight and bias: equal to what it was when it was built, unless somebody changed it."""
    return type(conv), conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode, conv.weight.shape


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a tensor or a parameter, and not a subclass, such as a quantized or distributed one."""
    return type(value) in (Tensor, nn.Parameter) or is_compiling() and isinstance(value, Tensor)  # a compiler's stands for a plain one


def is_traced(x: Any) -> bool:
    """Whether the operators that run on ``x`` are recorded or transformed by something that knows torch's own only.

    Such are ``torch.jit.trace`` and the ONNX exporter that uses it, ``torch.fx``, ``torch.func`` and forward-mode differentiation. A
    compiler, or ``torch.export``, takes our operators as well.
    """
    return not is_compiling() and (torch.jit.is_tracing() or not isinstance(x, Tensor) or is_functorch_active()
                                   or forward_ad._current_level >= 0)


def is_observed(x: Any) -> bool:
    """Whether all modules are to be called on ``x``: it :func:`is_traced`, or there are hooks for all modules."""
    return is_traced(x) or not is_compiling() and bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
                                                       or torch_module._global_backward_hooks)
