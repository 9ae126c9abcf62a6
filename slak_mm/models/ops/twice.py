"""Second derivatives of functions whose fast backward cannot be differentiated."""
from functools import wraps
from typing import Any, Callable, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def twice_differentiable(recompute: Callable[[Any], Tuple[Tuple[Tensor, ...], Tuple[Any, ...]]]) -> Callable:
    """Decorates ``backward`` of an autograd function: with ``create_graph=True``, torch's own operators give the gradients instead.

    Args:
        recompute (Callable): Takes the context; returns the outputs, computed by differentiable operators from the saved tensors, and
            the inputs in the order of ``forward``, None for what is no tensor.
    """

    def decorate(backward: Callable) -> Callable:
        fast = once_differentiable(backward)

        @wraps(backward)
        def either(ctx, *grads):
            if not torch.is_grad_enabled():
                return fast(ctx, *grads)
            outputs, inputs = recompute(ctx)
            wanted = [tensor for tensor, needed in zip(inputs, ctx.needs_input_grad) if needed]
            found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True))
            return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)

        return either

    return decorate
