"""Which weights to prune and which to grow: an algorithm is one function of each kind (Algorithm 1, lines 10 and 11).

A prune function chooses among the active weights of a layer, a grow function among the inactive ones. A new criterion
is one more entry in `PRUNE` or `GROW`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

SAMPLE = 4096


def lowest(values: torch.Tensor, count: int, among: torch.Tensor | None = None) -> torch.Tensor:
    """Indices (count,) of the `count` smallest of `values` (N,), in no particular order.

    Among equals the lowest index wins. Raises ValueError when NaN would be among them.

    Args:
        values: of any dtype.
        count: how many.
        among: bool (N,), at least `count` of it True: the only places that may be chosen. None is all.
    """
    if count == 0:
        return torch.empty(0, dtype=torch.long, device=values.device)
    candidates = None
    if values.numel() > 16 * SAMPLE:
        # a bound from a sample rules most out, and to list and select among the others takes a third of the time
        stride = values.numel() // SAMPLE
        sample = values[::stride] if among is None else values[::stride][among[::stride]]
        if sample.numel():
            total = values.numel() if among is None else int(among.count_nonzero())
            rank = round(count / total * sample.numel()) + SAMPLE // 32
            below = values <= sample.sort().values[min(rank, sample.numel() - 1)]
            candidates = (below if among is None else below & among).nonzero().squeeze(1)
    if candidates is None or candidates.numel() < count:
        candidates = torch.ones_like(values, dtype=torch.bool) if among is None else among
        candidates = candidates.nonzero().squeeze(1)
    values = values[candidates]
    # topk breaks ties as it likes (and differently on each device), so only its threshold is used
    threshold = values.topk(count, largest=False, sorted=False).values.amax()
    below = (values < threshold).nonzero().squeeze(1)
    ties = (values == threshold).nonzero().squeeze(1)
    chosen = candidates[torch.cat([below, ties[:count - below.numel()]])]
    if chosen.numel() != count:
        raise ValueError('the values to rank contain NaN')
    return chosen


def highest(values: torch.Tensor, count: int, among: torch.Tensor | None = None) -> torch.Tensor:
    """As `lowest`, for the `count` largest."""
    return lowest(-values, count, among)


def prune_magnitude(weights: torch.Tensor, count: int, active: torch.Tensor | None = None) -> torch.Tensor:
    """The smallest ``|w|`` (appendix B.3; Mocanu et al., 2018, as simplified by Evci et al., 2020).

    Args:
        weights: a layer's weights, (N,), of any floating dtype.
        count: how many to prune.
        active: its mask, bool (N,), at least `count` of it True. None is all.

    Returns:
        Indices (count,) into `weights`, of active ones.
    """
    return lowest(weights.float().abs(), count, active)


def prune_set(weights: torch.Tensor, count: int, active: torch.Tensor | None = None) -> torch.Tensor:
    """The smallest positive and the largest negative weights (SET; Mocanu et al., 2018).

    Each sign gives in proportion to its share of the layer, `count` in all; a zero counts as positive.
    Arguments and result as for `prune_magnitude`.
    """
    weights = weights.float()
    negative, positive = weights < 0, weights >= 0
    if active is not None:
        negative, positive = negative & active, positive & active
    negatives, positives = int(negative.count_nonzero()), int(positive.count_nonzero())
    from_negative = round(count * negatives / max(negatives + positives, 1))
    return torch.cat([highest(weights, from_negative, negative), lowest(weights, count - from_negative, positive)])


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


def gradient_scores(param: nn.Parameter, state: Mapping, generator: torch.Generator) -> torch.Tensor:
    """``|gradient|`` of each weight, flat. Raises ValueError when the parameter has no gradient at the time of the call."""
    if param.grad is None:
        raise ValueError("grow='gradient' needs .grad when the masks adapt: adapt before zero_grad(), "
                         'and exclude the parameters that the loss does not reach')
    return param.grad.flatten().float().abs()


def momentum_scores(param: nn.Parameter, state: Mapping, generator: torch.Generator) -> torch.Tensor:
    """``|momentum|`` of each weight, flat: the optimizer's `exp_avg` (Adam and its kin) or `momentum_buffer` (SGD).

    Raises ValueError when the optimizer holds neither.
    """
    momentum = state.get('exp_avg', state.get('momentum_buffer'))
    if momentum is None:
        raise ValueError("grow='momentum' needs an optimizer that has exp_avg or momentum_buffer for the parameter; "
                         f'this one has {sorted(state)}')
    return momentum.flatten().float().abs()


def random_scores(param: nn.Parameter, state: Mapping, generator: torch.Generator) -> torch.Tensor:
    """Of each weight a random number in [0, 1), flat."""
    return torch.rand(param.numel(), generator=generator).to(param.device)


def grow_gradient(
    param: nn.Parameter, state: Mapping, inactive: torch.Tensor, count: int, generator: torch.Generator,
) -> torch.Tensor:
    """The largest `gradient_scores` (RigL; Evci et al., 2020). Arguments and result as for `grow_random`."""
    return highest(gradient_scores(param, state, generator)[inactive], count)


def grow_momentum(
    param: nn.Parameter, state: Mapping, inactive: torch.Tensor, count: int, generator: torch.Generator,
) -> torch.Tensor:
    """The largest `momentum_scores` (Dettmers & Zettlemoyer, 2019). Arguments and result as for `grow_random`."""
    return highest(momentum_scores(param, state, generator)[inactive], count)


PRUNE = {'magnitude': prune_magnitude, 'set': prune_set}
GROW = {'random': grow_random, 'gradient': grow_gradient, 'momentum': grow_momentum}
# what a rule to grow by ranks, where a few weights compete in each of many groups (N:M patterns)
SCORES = {'random': random_scores, 'gradient': gradient_scores, 'momentum': momentum_scores}
