from typing import Iterator, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .depthwise import autocast

# Of the hidden activations that exist at a time on a CPU: they stay in the cache, and in memory that the process holds already.
CHUNK_BYTES = 2**23
# Up to this many channels the hidden layer's output is computed anew too: what that costs per byte saved grows with the channels.
MAX_RECOMPUTED_CHANNELS = 384


def scaled_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, scale: Optional[Tensor] = None) -> Tensor:
    """``linear2(gelu(linear1(x))) * scale``, which keeps less for backward.

    Backward computes anew what else it needs: GELU, and with up to 384 channels, where the maps are large and it costs little, the
    output of ``linear1``, which is kept otherwise. On a CPU all goes through the cache in chunks.

    Args:
        x (Tensor): Shape (..., C).
        weight1, bias1 (Tensor): Shapes (hidden, C) and (hidden,).
        weight2, bias2 (Tensor): Shapes (C, hidden) and (C,).
        scale (Tensor, optional): Shape (C,). Defaults to None.

    Returns:
        Tensor: Shape (..., C).
    """
    tensors = autocast(x, weight1, bias1, weight2, bias2)
    if not torch.is_grad_enabled():
        return _forward(*tensors, scale)
    if tensors[0].dtype == torch.float16:  # its range does not do for the second layer's gradient before the scale
        x, weight1, bias1, weight2, bias2 = tensors
        out = F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)
        return out if scale is None else out * scale
    return ScaledMLPFunction.apply(*tensors, scale)


def _forward(x, weight1, bias1, weight2, bias2, scale, kept=None):
    """The output; that of the first layer is written to ``kept`` (rows, hidden)."""
    rows = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(rows, dtype=x.dtype if scale is None else torch.promote_types(x.dtype, scale.dtype))
    for chunk in _chunks(rows, weight1):
        hidden = torch.addmm(bias1, rows[chunk], weight1.t(), out=None if kept is None else kept[chunk])
        if scale is None:
            torch.addmm(bias2, F.gelu(hidden), weight2.t(), out=out[chunk])
        else:
            torch.mul(F.linear(F.gelu(hidden), weight2, bias2), scale, out=out[chunk])
    return out.view(x.shape)


def _chunks(rows: Tensor, weight1: Tensor) -> Iterator[slice]:
    size = max(CHUNK_BYTES // (len(weight1) * rows.element_size()) if rows.is_cpu else len(rows), 1)
    return (slice(start, start + size) for start in range(0, len(rows), size))


class ScaledMLPFunction(torch.autograd.Function):
    """See :func:`scaled_mlp`."""

    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2, scale):
        channels = x.shape[-1]
        kept = None if channels <= MAX_RECOMPUTED_CHANNELS else x.new_empty(x.numel() // channels, len(weight1))
        ctx.save_for_backward(x, weight1, bias1, weight2, bias2, scale, kept)
        return _forward(x, weight1, bias1, weight2, bias2, scale, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight1, bias1, weight2, bias2, scale, kept = ctx.saved_tensors
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        grad = grad.reshape(x.shape).to(x.dtype)
        grad_x, grad_weight1, grad_weight2 = map(torch.empty_like, (x, weight1, weight2))
        grad_bias1, grad_bias2 = torch.zeros_like(bias1), grad.sum(0)
        for chunk in _chunks(x, weight1):
            beta = float(chunk.start > 0)  # the first chunk overwrites, the others are added
            hidden = torch.addmm(bias1, x[chunk], weight1.t()) if kept is None else kept[chunk]
            scaled = grad[chunk] if scale is None else (grad[chunk] * scale).to(x.dtype)
            # as if there were no scale: the scale's gradient follows from it, without the layer's output
            grad_weight2.addmm_(grad[chunk].t(), F.gelu(hidden), beta=beta)
            grad_hidden = torch.ops.aten.gelu_backward(scaled @ weight2, hidden)
            grad_weight1.addmm_(grad_hidden.t(), x[chunk], beta=beta)
            grad_bias1 += grad_hidden.sum(0)
            torch.mm(grad_hidden, weight1, out=grad_x[chunk])
        grad_scale = None
        if scale is not None:
            grad_scale = torch.linalg.vecdot(grad_weight2, weight2) + grad_bias2 * bias2
            grad_weight2.mul_(scale[:, None])
            grad_bias2 *= scale
        return grad_x.view(shape), grad_weight1, grad_bias1, grad_weight2, grad_bias2, grad_scale
