from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from . import triton_kernels
from .backend import choose
from .depthwise import autocast, conv2d_same, depthwise_conv2d, merge, reachable
from .twice import twice_differentiable


def large_kernel_conv2d(x: Tensor, weights: Sequence[Tensor], bias: Optional[Tensor] = None) -> Tensor:
    """Sum of parallel depthwise convolutions, stride 1, output as large as the input: SLaK's tall + wide + small (paper, section 4).

    Taps more than ``size - 1`` away from the centre only ever meet padding. They are sliced off, which is exact and, at 224x224,
    saves 43% of the depthwise work in stage 3 of SLaK. A kernel that fits inside another one is added into it.

    Args:
        x (Tensor): Input of shape (N, C, H, W); channels_last is the fast layout.
        weights (Sequence[Tensor]): Kernels of each branch, (C, 1, kH, kW), both sides odd.
        bias (Tensor, optional): Shape (C,). Defaults to None.

    Returns:
        Tensor: Shape (N, C, H, W).
    """
    kernels = merge([reachable(weight, x.shape[2:]) for weight in weights])
    x, = autocast(x)
    if _backend(x, kernels, bias, total=True) == 'triton':
        return TritonFunction.apply(x, bias, True, *kernels)[0]  # they take kernels of any type
    x, bias, *kernels = autocast(x, bias, *kernels)
    out = depthwise_conv2d(x, kernels[0], bias)
    for kernel in kernels[1:]:
        out += depthwise_conv2d(x, kernel)
    return out


def large_kernel_branches(x: Tensor, weights: Sequence[Tensor]) -> List[Tensor]:
    """The convolutions of :func:`large_kernel_conv2d` one by one, for what comes between them and their sum.

    Args:
        x (Tensor): Input of shape (N, C, H, W).
        weights (Sequence[Tensor]): Kernels of each branch, (C, 1, kH, kW), both sides odd.

    Returns:
        list[Tensor]: For each branch, (N, C, H, W).
    """
    kernels = [reachable(weight, x.shape[2:]) for weight in weights]
    x, = autocast(x)
    if _backend(x, kernels, None, total=False) == 'triton':
        return list(TritonFunction.apply(x, None, False, *kernels))
    x, *kernels = autocast(x, *kernels)
    return [depthwise_conv2d(x, kernel) for kernel in kernels]


def _recompute(ctx, x, *weights):
    bias = x.new_zeros(x.shape[1], requires_grad=ctx.needs_input_grad[1])  # its value does not matter
    outs = tuple(conv2d_same(x, weight) for weight in weights)
    return (sum(outs, bias[:, None, None]), ) if ctx.total else outs, (x, bias, None, *weights)


class TritonFunction(torch.autograd.Function):
    """:func:`large_kernel_branches` or (``total``) :func:`large_kernel_conv2d` by the Triton kernels; a tuple in either case.

    All in the default layout, in which the kernels read and write: converting a result would cost as much as computing it.
    """

    @staticmethod
    def forward(ctx, x, bias, total, *weights):
        x = x.contiguous()
        ctx.total = total
        ctx.save_for_backward(x, *weights)
        if total:
            return triton_kernels.summed([x] * len(weights), weights, bias),
        return tuple(triton_kernels.branches(x, weights))

    @staticmethod
    @twice_differentiable(_recompute)
    def backward(ctx, *grads):
        x, *weights = ctx.saved_tensors
        needs_x, needs_bias, _, *needs_weights = ctx.needs_input_grad
        grads = [grad.contiguous() for grad in grads]
        grad_bias = grads[0].sum((0, 2, 3)) if needs_bias else None
        if ctx.total:
            grads = grads * len(weights)
        grad_x = triton_kernels.summed(grads, [weight.flip(2, 3) for weight in weights]) if needs_x else None
        grad_weights = [None] * len(weights)
        if any(needs_weights):
            grad_weights = triton_kernels.weight_gradients(x, grads, [weight.shape for weight in weights], weights[0].dtype)
        return grad_x, grad_bias, None, *grad_weights


def _backend(x: Tensor, weights: Sequence[Tensor], bias: Optional[Tensor], total: bool) -> str:
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights))

    def run() -> Tensor:
        """The call on its own, and its backward."""
        tensors = [t.detach().requires_grad_(differentiable) for t in (x, *weights)]
        if total:
            outs = [large_kernel_conv2d(tensors[0], tensors[1:], None if bias is None else bias.detach())]
        else:
            outs = large_kernel_branches(tensors[0], tensors[1:])
        if differentiable:
            torch.autograd.grad(outs, tensors, [out.detach() for out in outs])
        return torch.stack([out.detach() for out in outs])

    key: Tuple = (x.device, x.dtype, x.shape[1:], tuple(weight.shape[2:] for weight in weights), total, differentiable)
    return choose(x, key, run, compiles=True)
