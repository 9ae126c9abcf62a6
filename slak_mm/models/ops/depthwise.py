from functools import reduce
from typing import Any, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN pads a depthwise convolution in its fast kernel up to this many columns a side; from here on it takes ten times as long
MAX_FAST_PADDING = 6
# with up to this many channels and a wider padding, its bfloat16 kernel never ends (torch 2.13)
MAX_CHANNELS_OF_ENDLESS_BF16 = 16


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """torch's depthwise convolution with stride 1, padded to keep the size; on a CPU with gradients of our own.

    Args:
        x (Tensor): Input of shape (N, C, H, W). On a CPU it is put into channels_last, the fast layout, in which the output is.
        weight (Tensor): Kernels of shape (C, 1, kH, kW), both sides odd.
        bias (Tensor, optional): Shape (C,). Defaults to None.

    Returns:
        Tensor: Shape (N, C, H, W).
    """
    if x.is_cpu and max(weight.shape[2:]) > 3:
        x = x.contiguous(memory_format=torch.channels_last)  # oneDNN takes 25 times as long in the default layout, at 31x31
    if x.is_cpu and torch.is_grad_enabled() and max(weight.shape[2:]) > 3:
        return DepthwiseConv2dFunction.apply(*autocast(x, weight, bias))
    return conv2d_same(x, weight, bias)


def reachable(weight: Tensor, size: Sequence[int]) -> Tensor:
    """The taps of (C, 1, kH, kW) kernels that can meet a map of ``size`` (H, W): at most (2H - 1, 2W - 1) around the centre.

    In an export for images of any size, all taps.
    """
    exports = getattr(getattr(torch, 'compiler', None), 'is_exporting', bool)()
    for dim, length in zip((2, 3), size):
        if exports and not isinstance(length, int):
            continue
        unreachable = weight.shape[dim] // 2 - (length - 1)
        if unreachable > 0:
            weight = weight.narrow(dim, unreachable, weight.shape[dim] - 2 * unreachable)
    return weight


def merge(weights: List[Tensor]) -> List[Tensor]:
    """Kernels (C, 1, kH, kW), odd, with the same sum of convolutions: one that fits inside another is added into its centre."""
    merged: List[Tensor] = []
    for weight in weights:  # not sorted by size, which a compiler may not know
        for i, other in enumerate(merged):
            if _fits(weight, other):
                merged[i] = _add_inside(other, weight)
                break
        else:
            inside = [other for other in merged if _fits(other, weight)]
            merged = [other for other in merged if not _fits(other, weight)] + [reduce(_add_inside, inside, weight)]
    return merged


def _fits(smaller: Tensor, larger: Tensor) -> bool:
    return smaller.shape[2] <= larger.shape[2] and smaller.shape[3] <= larger.shape[3]


def _add_inside(larger: Tensor, smaller: Tensor) -> Tensor:
    pad_h, pad_w = ((a - b) // 2 for a, b in zip(larger.shape[2:], smaller.shape[2:]))
    return larger + F.pad(smaller, (pad_w, pad_w, pad_h, pad_h))


def autocast(first: Tensor, *others: Optional[Tensor]) -> Tuple[Any, ...]:
    """The tensors in the dtype that autocast asks of a convolution or linear layer; unchanged without it, and in float64.

    One that is None stays None.
    """
    tensors, dtype = (first, *others), autocast_dtype(first.device.type)
    return tensors if dtype is None else tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def autocast_dtype(device: str) -> Optional[torch.dtype]:
    """The dtype that autocast asks of a convolution or linear layer on a type of devices; None without autocast."""
    if hasattr(torch, 'get_autocast_dtype'):  # torch >= 2.4
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def conv2d_same(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """torch's depthwise convolution with odd kernels, padded to keep the size."""
    (kh, kw), is_wide_bf16 = weight.shape[2:], x.dtype == torch.bfloat16 and x.is_cpu and weight.shape[3] // 2 > MAX_FAST_PADDING
    if is_wide_bf16 and kw > kh:  # a tall one on the transposed map takes less, with the copies
        layout = torch.channels_last
        out = conv2d_same(x.transpose(2, 3).contiguous(memory_format=layout), weight.transpose(2, 3), bias)
        return out.transpose(2, 3).contiguous(memory_format=layout)
    if is_wide_bf16 and len(weight) <= MAX_CHANNELS_OF_ENDLESS_BF16:
        with torch.autocast('cpu', enabled=False):
            return conv2d_same(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=weight.shape[0])


class DepthwiseConv2dFunction(torch.autograd.Function):
    """:func:`conv2d_same` with gradients that are convolutions in the direction that oneDNN is fast in.

    The gradient of the input is the convolution of the output's gradient with the mirrored kernels. For that of the kernels see
    :func:`weight_gradient`; torch's own takes 60% of a train step of SLaK-T on a CPU.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return conv2d_same(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (conv2d_same(grad.contiguous(memory_format=torch.channels_last), weight.flip(2, 3)) if needs_x else None,
                weight_gradient(x, grad, weight.shape[2:]) if needs_weight else None,
                grad.sum((0, 2, 3)) if needs_bias else None)


def weight_gradient(x: Tensor, grad: Tensor, kernel_size: Tuple[int, int]) -> Tensor:
    """Gradient of a depthwise convolution's kernels, as a depthwise convolution itself: of ``x``, with ``grad`` for kernels.

    Each image and channel is a channel of it. Its output is the kernel, so it is slow if the kernel is wide, by the padding: a wide
    kernel is handled as a tall one on the transposed map, and a large square one is padded beforehand.

    Args:
        x (Tensor): Input of the convolution, (N, C, H, W).
        grad (Tensor): Gradient of its output, (N, C, H, W).
        kernel_size (tuple[int, int]): kH and kW, odd.

    Returns:
        Tensor: Shape (C, 1, kH, kW).
    """
    (n, c, h, w), (kh, kw) = x.shape, kernel_size
    if kw > kh:
        return weight_gradient(x.transpose(2, 3), grad.transpose(2, 3), (kw, kh)).transpose(2, 3)
    columns = kw // 2
    if columns > MAX_FAST_PADDING:
        x, columns = F.pad(x, (columns, columns)), 0
    x, grad = x.reshape(1, n * c, h, -1), grad.reshape(n * c, 1, h, w)  # in memory the default layout: it is the faster one here
    return F.conv2d(x, grad, padding=(kh // 2, columns), groups=n * c).view(n, c, kh, kw).sum(0)[:, None]
