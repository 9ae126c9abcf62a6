"""Second derivatives of functions whose fast backward cannot be differentiated."""
from functools import wraps
from typing import Any, Callable, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def twice_differentiable(recompute: Callable[..., Tuple[Tuple[Tensor, ...], Tuple[Any, ...]]]) -> Callable:
    """Decorates ``backward`` of an autograd function: with ``create_graph=True``, torch's own operators give the gradients instead.

    Args:
        recompute (Callable): Takes the context and the saved tensors; returns the outputs, computed from these by differentiable
            operators, and the inputs, of these, in the order of ``forward``; None for what is no tensor.
    """

    def decorate(backward: Callable) -> Callable:
        fast = once_differentiable(backward)

        @wraps(backward)
        def either(ctx, *grads):
            if not torch.is_grad_enabled():
                return fast(ctx, *grads)
            # views, so that what an input was itself computed from, which may be a weight that is an input too, stays out
            saved = (tensor if tensor is None else tensor.view_as(tensor) for tensor in ctx.saved_tensors)
            outputs, inputs = recompute(ctx, *saved)
            wanted = [tensor for tensor, needed in zip(inputs, ctx.needs_input_grad) if needed]
            found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True))
            return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)

        return either

    return decorate
