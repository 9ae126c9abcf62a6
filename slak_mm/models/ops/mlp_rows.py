"""LayerNorm, MLP and residual sum of a block on an NVIDIA GPU: on rows padded to what tensor cores take, in one layout or the other as
each step needs it. See :mod:`.triton_maps`."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from . import triton_maps
from .twice import twice_differentiable

ALIGNMENT = 16  # bytes: rows must begin at a multiple of it for cuBLAS to use tensor cores at full speed


def padded_size(size: int, dtype: torch.dtype) -> int:
    """The least number of elements, from ``size`` on, that fills whole 16 bytes."""
    multiple = ALIGNMENT // dtype.itemsize
    return -(-size // multiple) * multiple


def padded(tensor: Tensor, dtype: torch.dtype, scale: Optional[Tensor] = None) -> Tensor:
    """``tensor``, its first dimension times ``scale``, in ``dtype``; each side padded with zeros to whole 16 bytes."""
    sizes = [padded_size(size, dtype) for size in tensor.shape]
    if scale is None and list(tensor.shape) == sizes:
        return tensor.to(dtype)
    out = tensor.new_zeros(sizes, dtype=dtype)
    inside = out[tuple(slice(size) for size in tensor.shape)]
    if scale is None:
        inside.copy_(tensor)
    else:
        torch.mul(tensor, scale.view(-1, *[1] * (tensor.dim() - 1)), out=inside)
    return out


def plain_norm_mlp(x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2, scale):
    """:func:`~.mlp.norm_mlp` by torch's own operators, which can be differentiated twice."""
    out = F.layer_norm(x.to(norm_weight.dtype), x.shape[-1:], norm_weight, norm_bias, eps).to(weight1.dtype)
    out = F.linear(F.gelu(F.linear(out, weight1, bias1)), weight2, bias2)
    return out if scale is None else out * scale


def norm_mlp_rows(x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2, scale, dtype):
    """:func:`~.mlp.norm_mlp` without gradients; products are in ``dtype``."""
    weight1 = padded(weight1, dtype)
    rows = triton_maps.to_rows(x, weight1.shape[1], dtype, (norm_weight, norm_bias, eps))[0]
    hidden = torch.ops.aten.gelu_.default(torch.addmm(padded(bias1, dtype), rows, weight1.t()))
    out = torch.addmm(padded(bias2, dtype, scale), hidden, padded(weight2, dtype, scale).t())
    return out[:, :x.shape[-1]].unflatten(0, x.shape[:-1])


def _recompute_norm_mlp(ctx, x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, weight1_p, *_):
    dtype = weight1_p.dtype
    linear = (tensor.to(dtype) for tensor in (weight1, bias1, weight2, bias2))
    out = plain_norm_mlp(x, norm_weight, norm_bias, ctx.eps, *linear, scale).to(dtype)
    return (out, ), (x, norm_weight, norm_bias, None, weight1, bias1, weight2, bias2, scale, None, None)


def _recompute_norm(ctx, x, weight, bias, *_):
    out = F.layer_norm(x.to(weight.dtype), weight.shape, weight, bias, ctx.eps).to(ctx.dtype)
    return (out, ), (x, weight, bias, None, None)


class NormMLPRowsFunction(torch.autograd.Function):
    """:func:`norm_mlp_rows`. Backward computes the norm, GELU and, unless it was to ``keep`` it, ``linear1``'s output again."""

    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2, scale, dtype, keep):
        weight1_p, bias1_p = padded(weight1, dtype), padded(bias1, dtype)
        rows, mean, rstd = triton_maps.to_rows(x, weight1_p.shape[1], dtype, (norm_weight, norm_bias, eps))
        hidden = torch.addmm(bias1_p, rows, weight1_p.t())
        activations = F.gelu(hidden) if keep else torch.ops.aten.gelu_.default(hidden)
        weight2_p = padded(weight2, dtype, scale)
        ctx.save_for_backward(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, weight1_p, bias1_p, weight2_p, mean,
                              rstd, hidden if keep else None)
        ctx.eps, ctx.inner = eps, len(weight1)
        out = torch.addmm(padded(bias2, dtype, scale), activations, weight2_p.t())
        return out[:, :x.shape[-1]].unflatten(0, x.shape[:-1])

    @staticmethod
    @twice_differentiable(_recompute_norm_mlp)
    def backward(ctx, grad):
        x, norm_weight, norm_bias, _, _, weight2, bias2, scale, weight1_p, bias1_p, weight2_p, mean, rstd, hidden = ctx.saved_tensors
        channels, width, dtype = x.shape[-1], weight1_p.shape[1], weight1_p.dtype
        rows = triton_maps.to_rows(x, width, dtype, (norm_weight, norm_bias, ctx.eps))[0]
        grad = triton_maps.to_rows(grad, width, dtype)[0]
        if hidden is None:
            hidden = torch.addmm(bias1_p, rows, weight1_p.t())
        activations = F.gelu(hidden)
        # as if there were no scale: the scale's gradient follows from it, without the layer's output
        grad_weight2 = (grad.t() @ activations)[:channels, :ctx.inner].to(weight2.dtype)
        grad_bias2 = grad.sum(0, dtype=bias2.dtype)[:channels]
        grad_hidden = torch.mm(grad, weight2_p, out=activations)
        torch.ops.aten.gelu_backward.grad_input(grad_hidden, hidden, grad_input=grad_hidden)
        grad_weight1 = (grad_hidden.t() @ rows)[:ctx.inner, :channels].to(weight2.dtype)
        grad_bias1 = grad_hidden.sum(0, dtype=bias2.dtype)[:ctx.inner]
        grad_x, *grads_norm = triton_maps.norm_backward(grad_hidden @ weight1_p, x, mean, rstd, norm_weight)
        grad_norm_weight, grad_norm_bias = (part.to(norm_weight.dtype) for part in grads_norm)
        grad_scale = None
        if scale is not None:
            grad_scale = torch.addcmul((grad_weight2 * weight2).sum(1), grad_bias2, bias2).to(scale.dtype)
            grad_weight2 = (grad_weight2 * scale[:, None]).to(weight2.dtype)
            grad_bias2 = (grad_bias2 * scale).to(bias2.dtype)
        return (grad_x, grad_norm_weight, grad_norm_bias, None, grad_weight1, grad_bias1, grad_weight2, grad_bias2, grad_scale, None,
                None)


class LayerNormRowsFunction(torch.autograd.Function):
    """Layer norm over the last dimension of (N, ..., C); the output is contiguous, whatever the layout of the input."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, dtype):
        rows, mean, rstd = triton_maps.to_rows(x, x.shape[-1], dtype, (weight, bias, eps))
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.eps, ctx.dtype = eps, dtype
        return rows.view(x.shape)

    @staticmethod
    @twice_differentiable(_recompute_norm)
    def backward(ctx, grad):
        x, weight, _, mean, rstd = ctx.saved_tensors
        grad_x, *grads = triton_maps.norm_backward(grad.reshape(-1, x.shape[-1]), x, mean, rstd, weight)
        return (grad_x, *(part.to(weight.dtype) for part in grads), None, None)


class AddFunction(torch.autograd.Function):
    """Sum of maps (N, ..., C), of which the second may lie in memory as rows of channels; in the layout of the first."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.dtype = rows.dtype
        return triton_maps.add(x, rows)

    @staticmethod
    def backward(ctx, grad):
        return grad, grad.to(ctx.dtype)
