"""Which weights to prune and which to grow: an algorithm is one function of each kind (Algorithm 1, lines 10 and 11).

A prune function chooses among the active weights of a layer, a grow function among the inactive ones. A new criterion
is one more entry in `PRUNE` or `GROW`.
"""

from collections.abc import Mapping

import torch
from torch import nn


def lowest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (count,) of the `count` smallest of `values` (N,), in no particular order.

    Among equals the lowest index wins. Raises ValueError when NaN would be among them.
    """
    if count == 0:
        return torch.empty(0, dtype=torch.long, device=values.device)
    # topk breaks ties as it likes (and differently on each device), so only its threshold is used
    threshold = values.topk(count, largest=False, sorted=False).values.amax()
    below = (values < threshold).nonzero().squeeze(1)
    ties = (values == threshold).nonzero().squeeze(1)
    chosen = torch.cat([below, ties[:count - below.numel()]])
    if chosen.numel() != count:
        raise ValueError('the values to rank contain NaN')
    return chosen


def highest(values: torch.Tensor, count: int) -> torch.Tensor:
    """As `lowest`, for the `count` largest."""
    return lowest(-values, count)


def prune_magnitude(weights: torch.Tensor, count: int) -> torch.Tensor:
    """The smallest |w| (appendix B.3; Mocanu et al., 2018, as simplified by Evci et al., 2020).

    Args:
        weights: the active weights of a layer, (N,), of any floating dtype.
        count: how many to prune, <= N.

    Returns:
        Indices (count,) into `weights`.
    """
    return lowest(weights.float().abs(), count)


def prune_set(weights: torch.Tensor, count: int) -> torch.Tensor:
    """The smallest positive and the largest negative weights (SET; Mocanu et al., 2018).

    Each sign gives in proportion to its share of the layer, `count` in all; a zero counts as positive.
    Arguments and result as for `prune_magnitude`.
    """
    weights = weights.float()
    negative = (weights < 0).nonzero().squeeze(1)
    positive = (weights >= 0).nonzero().squeeze(1)
    from_negative = round(count * negative.numel() / max(weights.numel(), 1))
    return torch.cat([
        negative[highest(weights[negative], from_negative)],
        positive[lowest(weights[positive], count - from_negative)],
    ])


def grow_random(
    param: nn.Parameter, state: Mapping, inactive: torch.Tensor, count: int, generator: torch.Generator,
) -> torch.Tensor:
    """Uniformly at random, without replacement (the paper's choice, appendix B.3; Mocanu et al., 2018).

    Args:
        param: the layer's parameter.
        state: the optimizer's state of that parameter, a dict that may be empty.
        inactive: flat indices of the inactive weights, (N,). None of them was pruned in this round.
        count: how many to grow, <= N.
        generator: a CPU generator, the only source of randomness.

    Returns:
        Indices (count,) into `inactive`.
    """
    return torch.randperm(inactive.numel(), generator=generator)[:count].to(inactive.device)


def grow_gradient(
    param: nn.Parameter, state: Mapping, inactive: torch.Tensor, count: int, generator: torch.Generator,
) -> torch.Tensor:
    """The largest |gradient| (RigL; Evci et al., 2020). Arguments and result as for `grow_random`.

    Raises ValueError when the parameter has no gradient at the time of the call.
    """
    if param.grad is None:
        raise ValueError("grow='gradient' needs .grad when the masks adapt: adapt before zero_grad(), "
                         'and exclude the parameters that the loss does not reach')
    return highest(param.grad.flatten()[inactive].float().abs(), count)


def grow_momentum(
    param: nn.Parameter, state: Mapping, inactive: torch.Tensor, count: int, generator: torch.Generator,
) -> torch.Tensor:
    """The largest |momentum| (Dettmers & Zettlemoyer, 2019). Arguments and result as for `grow_random`.

    The momentum is the optimizer's `exp_avg` (Adam and its kin) or `momentum_buffer` (SGD).

    Raises ValueError when the optimizer holds neither.
    """
    momentum = state.get('exp_avg', state.get('momentum_buffer'))
    if momentum is None:
        raise ValueError("grow='momentum' needs an optimizer that has exp_avg or momentum_buffer for the parameter; "
                         f'this one has {sorted(state)}')
    return highest(momentum.flatten()[inactive].float().abs(), count)


PRUNE = {'magnitude': prune_magnitude, 'set': prune_set}
GROW = {'random': grow_random, 'gradient': grow_gradient, 'momentum': grow_momentum}
