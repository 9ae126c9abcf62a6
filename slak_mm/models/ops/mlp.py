from itertools import repeat
from typing import Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import choose
from .depthwise import autocast, autocast_dtype
from .mlp_rows import AddFunction, LayerNormRowsFunction, NormMLPRowsFunction, norm_mlp_rows, plain_norm_mlp
from .products import linear, outer, prefers_onednn
from .twice import twice_differentiable

# Of the hidden activations that exist at a time on a CPU: they stay in the cache, and in memory that the process holds already.
CHUNK_BYTES = 2**22
# Up to this many channels the hidden layer's output is computed again too: what that costs per byte saved grows with the channels.
MAX_RECOMPUTED_CHANNELS = 384
# From this many rows on, matrix products of 124 or 249 columns gain more on a CPU from zeros up to a multiple of 16 than these cost.
MIN_PADDED_ROWS = 3000


def norm_mlp(x: Tensor, norm: Tuple[Tensor, Tensor, float], linear1: Tuple[Tensor, Tensor], linear2: Tuple[Tensor, Tensor],
             scale: Optional[Tensor] = None) -> Tensor:
    """``linear2(gelu(linear1(layer_norm(x)))) * scale``, which keeps less for backward.

    Backward computes again what else it needs: the norm, GELU and, with up to 384 channels, where the maps are large and it costs
    little, the output of ``linear1``, which is kept otherwise. On a CPU all goes through the cache in chunks.

    Args:
        x (Tensor): Shape (..., C).
        norm (tuple): Weight (C,), bias (C,) and eps of the layer norm.
        linear1 (tuple[Tensor, Tensor]): Weight (hidden, C) and bias (hidden,).
        linear2 (tuple[Tensor, Tensor]): Weight (C, hidden) and bias (C,).
        scale (Tensor, optional): Shape (C,). Defaults to None.

    Returns:
        Tensor: Shape (..., C).
    """
    norm_weight, norm_bias, eps = norm
    grad = torch.is_grad_enabled()
    dtype = autocast_dtype(x.device.type) or linear1[0].dtype
    # in backward, float16's range does not do for the second layer's gradient before the scale
    half = grad and dtype == torch.float16
    if not half and _backend(x, norm, linear1, linear2, scale, dtype) == 'triton':
        arguments = x, norm_weight, norm_bias, eps, *linear1, *linear2, scale, dtype
        keep = x.shape[-1] > MAX_RECOMPUTED_CHANNELS
        return NormMLPRowsFunction.apply(*arguments, keep) if grad else norm_mlp_rows(*arguments)
    if half:
        return plain_norm_mlp(x, norm_weight, norm_bias, eps, *linear1, *linear2, scale)
    arguments = x, norm_weight, norm_bias, eps, *autocast(*linear1, *linear2), scale
    return NormMLPFunction.apply(*arguments) if grad else _forward(*arguments)


def layer_norm_2d(x: Tensor, weight: Tensor, bias: Tensor, eps: float, plain: bool = False) -> Tensor:
    """Layer norm over the channels of a map (N, C, H, W); on a CPU, free of copies on a channels_last one.

    Args:
        x (Tensor): Shape (N, C, H, W).
        weight (Tensor): Shape (C,).
        bias (Tensor): Shape (C,).
        eps (float): Added to the variance.
        plain (bool): By torch's operators alone, as a tracer wants. Defaults to False.

    Returns:
        Tensor: Shape (N, C, H, W), channels_last.
    """
    rows = x.permute(0, 2, 3, 1)
    if not plain and _norm_backend(rows, weight, bias, eps) == 'triton':
        dtype = x.dtype if autocast_dtype(x.device.type) is None else torch.float32  # as autocast has it
        out = LayerNormRowsFunction.apply(rows, weight, bias, eps, dtype)
    else:
        out = F.layer_norm(rows, weight.shape, weight, bias, eps)
    return out.permute(0, 3, 1, 2)


def _norm_backend(rows: Tensor, weight: Tensor, bias: Tensor, eps: float) -> str:

    def run() -> Tensor:
        return layer_norm_2d(rows.detach().permute(0, 3, 1, 2), weight, bias, eps)

    return choose(rows, ('norm', rows.device, rows.dtype, rows.shape[1:], rows.stride()), run)


def add(x: Tensor, out: Tensor, plain: bool = False) -> Tensor:
    """``x + out`` for maps (N, C, H, W), in the layout of x: on a GPU that of ``out`` may be another at no cost.

    ``plain`` as in :func:`layer_norm_2d`.
    """
    if plain:
        return x + out
    key = 'add', x.device, x.dtype, out.dtype, x.shape[1:]
    if (x.dim() == 4 and out.stride(1) == 1 and x.dtype == torch.promote_types(x.dtype, out.dtype)
            and choose(x, key, lambda: add(x.detach(), out.detach())) == 'triton'):
        return AddFunction.apply(x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return x + out


def _backend(x, norm, linear1, linear2, scale, dtype) -> str:
    differentiable = torch.is_grad_enabled() and (x.requires_grad or linear1[0].requires_grad)

    def run() -> Tensor:
        """The call on its own, and its backward."""
        inputs = x.detach().requires_grad_(differentiable)
        out = norm_mlp(inputs, norm, linear1, linear2, scale)
        if differentiable:
            torch.autograd.grad(out, inputs, out.detach())
        return out.detach()

    return choose(x, ('mlp', x.device, x.dtype, dtype, x.shape[1:], len(linear1[0]), differentiable), run)


def _forward(x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2, scale, kept=None):
    """The output; those of the first linear layer, by chunks, are added to the list ``kept``."""
    rows = x.reshape(-1, x.shape[-1])
    out = rows.new_empty(rows.shape, dtype=weight1.dtype if scale is None else torch.promote_types(weight1.dtype, scale.dtype))
    channels = len(weight2)
    if rows.is_cpu and len(rows) >= MIN_PADDED_ROWS and not prefers_onednn(weight1):
        weight2 = F.pad(weight2, (0, 0, 0, -channels % 16))
    shift = bias2 if scale is None else bias2 * scale
    for inputs, outputs in _chunks(weight1, rows, out):
        normed = _layer_norm(inputs, norm_weight, norm_bias, eps)[0].to(weight1.dtype)
        hidden = linear(normed, weight1, bias1)
        if kept is None:
            activations = torch.ops.aten.gelu_.default(hidden)
        else:
            kept.append(hidden)
            activations = F.gelu(hidden)
        products = linear(activations, weight2)[:, :channels]
        if scale is None:
            torch.add(products, shift, out=outputs)
        else:
            torch.addcmul(shift, products, scale, out=outputs)
    return out.view(x.shape)


def _chunks(weight1: Tensor, *tensors: Tensor) -> Iterator[Tuple[Tensor, ...]]:
    """The tensors in equally long chunks of rows."""
    rows = tensors[0]
    count = round(len(rows) * len(weight1) * weight1.element_size() / CHUNK_BYTES) if rows.is_cpu else 1
    size = max(-(-len(rows) // max(count, 1)), 1)
    return zip(*(tensor.split(size) for tensor in tensors))


def _layer_norm(rows, weight, bias, eps):
    """The norm of each row, in the type of its parameters, its mean and 1 / its standard deviation."""
    return torch.native_layer_norm(rows.to(weight.dtype), rows.shape[1:], weight, bias, eps)


def _recompute(ctx, x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, *_):
    out = plain_norm_mlp(x, norm_weight, norm_bias, ctx.eps, weight1, bias1, weight2, bias2, scale)
    return (out, ), (x, norm_weight, norm_bias, None, weight1, bias1, weight2, bias2, scale)


class NormMLPFunction(torch.autograd.Function):
    """See :func:`norm_mlp`."""

    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2, scale):
        kept: Optional[List[Tensor]] = None if x.shape[-1] <= MAX_RECOMPUTED_CHANNELS else []
        out = _forward(x, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2, scale, kept)
        ctx.save_for_backward(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, *(kept or ()))
        ctx.eps = eps
        return out

    @staticmethod
    @twice_differentiable(_recompute)
    def backward(ctx, grad):
        x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, *kept = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        grad = grad.reshape(rows.shape).to(weight1.dtype)
        grad_rows = torch.empty_like(rows)
        grad_norm_weight, grad_norm_bias = map(torch.zeros_like, (norm_weight, norm_bias))
        wide = torch.promote_types(grad.dtype, torch.float32)  # of what is summed up over many chunks
        grad_bias1, grad_bias2 = torch.zeros_like(bias1, dtype=wide), grad.sum(0).to(wide)
        grad_weight1 = grad_weight2 = None
        for (inputs, grad_outputs, grad_inputs), hidden in zip(_chunks(weight1, rows, grad, grad_rows), kept or repeat(None)):
            normed, mean, rstd = _layer_norm(inputs, norm_weight, norm_bias, ctx.eps)
            inputs, normed = inputs.to(normed.dtype), normed.to(weight1.dtype)
            if hidden is None:
                hidden = linear(normed, weight1, bias1)
            activations = F.gelu(hidden)
            # as if there were no scale: the scale's gradient follows from it, without the layer's output
            grad_weight2 = outer(grad_outputs, activations, grad_weight2)
            if scale is not None:
                grad_outputs = (grad_outputs * scale).to(grad.dtype)
            # over what is needed no more: less to keep in the cache
            grad_hidden = linear(grad_outputs, weight2.t(), out=activations)
            torch.ops.aten.gelu_backward.grad_input(grad_hidden, hidden, grad_input=grad_hidden)
            grad_weight1 = outer(grad_hidden, normed, grad_weight1)
            grad_bias1 += grad_hidden.sum(0)
            grad_normed = linear(grad_hidden, weight1.t()).to(inputs.dtype)
            part, weight_part, bias_part = torch.ops.aten.native_layer_norm_backward.default(
                grad_normed, inputs, inputs.shape[1:], mean, rstd, norm_weight, norm_bias, (True, True, True))
            grad_inputs.copy_(part)
            grad_norm_weight += weight_part
            grad_norm_bias += bias_part
        grad_scale = None
        if scale is not None:
            grad_scale = grad_bias2 * bias2
            size = max(CHUNK_BYTES // 4 // (len(weight1) * weight1.element_size()), 1)
            for start in range(0, len(scale), size):  # while a part is in the cache
                part = slice(start, start + size)
                grad_scale[part] += (grad_weight2[part] * weight2[part]).sum(1)
                grad_weight2[part] *= scale[part, None]
            grad_bias2 *= scale
        return (grad_rows.view(x.shape), grad_norm_weight, grad_norm_bias, None, grad_weight1.contiguous(), grad_bias1, grad_weight2,
                grad_bias2, grad_scale)
