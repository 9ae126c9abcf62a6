"""How many weights each layer keeps, and the first masks.

`uniform`, `erk` and `snip` return the number of active weights of each layer, whose sum is round(density * total).
A layer that would keep 0.99 of its weights or more keeps all of them, as in the authors' code; the other layers make up
for it, by the same rule, so that the sum stays. `draw` then makes random masks with exactly these counts, for SNIP too,
which serves for the ratios of the layers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import nn

from .criteria import highest
from .rng import generator

DENSE = 0.99


def uniform(shapes: Mapping[str, torch.Size], density: float) -> dict[str, int]:
    """The same density in each layer, rounded by largest remainder.

    Args:
        shapes: shape of each layer's weight.
        density: share of all these weights to keep, in (0, 1].

    Returns:
        Number of active weights of each layer.

    Raises:
        ValueError: when the dense layers alone exceed the density (as 0.995 does, which makes all layers dense), or
            when they leave nothing for the others.
    """
    return _proportional(shapes, density, {name: 1. for name in shapes})


def erk(shapes: Mapping[str, torch.Size], density: float) -> dict[str, int]:
    """Erdos-Renyi-Kernel (Evci et al., 2020): the density of a layer is proportional to
    (out + in) / (out * in), or (out + in + kh + kw) / (out * in * kh * kw) for a convolution.

    A layer that this puts above its size is dense, and the others are scaled to fit. The rest is as for `uniform`.
    """
    return _proportional(shapes, density, {name: _erk_ratio(shape) for name, shape in shapes.items()})


def _erk_ratio(shape: torch.Size) -> float:
    return sum(shape) / shape.numel()


def snip(scores: Mapping[str, torch.Tensor], density: float) -> dict[str, int]:
    """SNIP (Lee et al., 2019; appendix B.1): how many of the globally highest scores each layer has.

    Among equal scores the first layer, and in it the first weight, wins. No layer is left out because of what the batch happens to
    hold: one whose scores are all zero, of which the batch says nothing, keeps the share `density`; any other keeps at least one
    weight for each of its outputs (though not more than the share `density`).

    Args:
        scores: a tensor of each layer's shape, as from `snip_scores`.
        density (float): As for `uniform`, as are result and errors.

    Raises:
        ValueError: also when a score is not finite.
    """
    flat = {name: score.flatten() for name, score in scores.items()}
    bad = [name for name, score in flat.items() if not score.isfinite().all()]
    if bad:
        raise ValueError(f'SNIP scores are not finite in {bad}')
    sizes = {name: score.numel() for name, score in flat.items()}
    shares = {name: math.floor(density * size) for name, size in sizes.items()}
    outputs = {name: len(score) if score.ndim > 1 else 1 for name, score in scores.items()}
    unknown = unscored(scores)
    least = {name: shares[name] if name in unknown else min(outputs[name], shares[name]) for name in scores}

    def count_highest(names, total):
        every = torch.cat([flat[name] for name in names])
        kept = torch.zeros_like(every, dtype=torch.bool)
        kept[highest(every, total)] = True
        parts = kept.split([flat[name].numel() for name in names])
        return {name: int(part.count_nonzero()) for name, part in zip(names, parts)}

    return _with_dense_layers(sizes, density, count_highest, least)


def own(shapes: Mapping[str, torch.Size], sparsity: Mapping[str, float]) -> dict[str, int]:
    """Targets of one's own: each layer keeps the share 1 - `sparsity` that the first matching pattern says, rounded; else all.

    Args:
        shapes: as for `uniform`.
        sparsity: pattern, as in a shell, to a share in [0, 1). It is matched with a layer's name, and with each end of it that
            begins after a dot: 'stages.2.*' matches 'backbone.stages.2.0.pwconv1.weight'.

    Raises:
        ValueError: a pattern matches nothing.
    """
    matching = {name: [pattern for pattern in sparsity if fnmatch(name, pattern) or fnmatch(name, f'*.{pattern}')] for name in shapes}
    unused = set(sparsity).difference(*matching.values())
    if unused:
        raise ValueError(f'sparsity: nothing matches {sorted(unused)}; there are {list(shapes)}')
    return {name: round((1 - sparsity[patterns[0]]) * shapes[name].numel()) if patterns else shapes[name].numel()
            for name, patterns in matching.items()}


def allocate(
    shapes: Mapping[str, torch.Size], sparsity: float | Mapping[str, float], init: str,
    scores: Mapping[str, torch.Tensor] | None = None, ratios: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """How many weights, or units, each layer keeps.

    Args:
        shapes: as for `uniform`; of units, (units,).
        sparsity: share of all that is masked; or targets, see `own`, and then `init` is not used.
        init: 'snip', 'erk' or 'uniform'.
        scores: for 'snip'.
        ratios: densities are in proportion to these, whatever `init` is; see `unit_ratios`.
    """
    if isinstance(sparsity, Mapping):
        return own(shapes, sparsity)
    if ratios is not None:
        return _proportional(shapes, 1 - sparsity, ratios)
    if init == 'snip':
        assert scores is not None
        return snip(scores, 1 - sparsity)
    return {'erk': erk, 'uniform': uniform}[init](shapes, 1 - sparsity)


def unit_ratios(
    layers: Mapping[str, Mapping[str, torch.Size]], sparsity: float, init: str, scores: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, float]:
    """How dense groups of units are, in proportion to each other.

    By 'snip', as the weights in them would be if single ones were masked. (Means of scores over units hardly differ within a layer:
    the highest of all would be those of a few whole layers, and others would be emptied.)

    Args:
        layers: of each group, names and shapes of its weights; the first is the layer that 'erk' goes by.
        sparsity, init, scores: as for `allocate`.
    """
    if init == 'snip':
        assert scores is not None
        counts = snip({name: scores[name] for shapes in layers.values() for name in shapes}, 1 - sparsity)
        return {group: sum(counts[name] for name in shapes) / sum(shape.numel() for shape in shapes.values())
                for group, shapes in layers.items()}
    return {group: _erk_ratio(next(iter(shapes.values()))) if init == 'erk' else 1. for group, shapes in layers.items()}


def unscored(scores: Mapping[str, torch.Tensor]) -> list[str]:
    """The layers whose scores are all zero: the loss did not reach them."""
    return [name for name, score in scores.items() if not score.any()]


def snip_scores(
    params: Mapping[str, nn.Parameter],
    gradients: Mapping[str, torch.Tensor | None] | Callable[[], torch.Tensor],
    reduce: Callable[[torch.Tensor], object] | None = None,
) -> dict[str, torch.Tensor]:
    """``|gradient * weight|`` of each weight (Lee et al., 2019; appendix B.1).

    In fp32: at the start of a SLaK they are about 1e-11, because the layer scale is 1e-6, and would be zero in fp16.

    Args:
        params: the maskable parameters by name.
        gradients: the gradient of each one on one batch, by name; or a function that computes the loss on that batch, a
            scalar. Neither these gradients nor any `.grad` is changed. (The function is differentiated with
            torch.autograd.grad, for which reentrant checkpointing is not made: pass gradients then.)
        reduce: sums a tensor over all processes, in place. Default: torch.distributed.all_reduce if it is initialized.

    Raises:
        ValueError: when a parameter has no gradient because it is frozen. One that the loss does not reach has scores of zero.
    """
    frozen = [name for name, p in params.items() if not p.requires_grad]
    if frozen:
        raise ValueError(f'SNIP needs a gradient of each maskable parameter; exclude {frozen}, which are frozen, or unfreeze them')
    if callable(gradients):
        with torch.enable_grad():
            grads = torch.autograd.grad(gradients(), list(params.values()), allow_unused=True)
        gradients = dict(zip(params, grads))
    if reduce is None and torch.distributed.is_available() and torch.distributed.is_initialized():
        reduce = torch.distributed.all_reduce
    scores = {}
    for name, param in params.items():
        gradient = gradients.get(name)  # the batch of another process may reach it
        score = (torch.zeros_like(param) if gradient is None else gradient).detach().to(torch.float32, copy=True)
        if reduce is not None:
            reduce(score)
        scores[name] = score.mul_(param.detach()).abs_()
    return scores


def from_weights(params: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor | None]:
    """The masks of a sparse checkpoint: weights != 0.

    Dense (None) is a layer at density .99 or more, as anywhere here: among a million random weights a few are zero by chance. So is
    one of zeros alone: that is not sparse but just initialized.
    """
    masks = {name: p.detach() != 0 for name, p in params.items()}
    return {name: mask if 0 < mask.count_nonzero() < DENSE * mask.numel() else None for name, mask in masks.items()}


def draw(shapes: Mapping[str, torch.Size], counts: Mapping[str, int], seed: int) -> dict[str, torch.Tensor | None]:
    """Masks with exactly `counts` active weights at random places; None for a layer that keeps all of them."""
    masks: dict[str, torch.Tensor | None] = dict.fromkeys(shapes)
    for name, shape in shapes.items():
        if counts[name] < shape.numel():
            mask = torch.zeros(shape.numel(), dtype=torch.bool)
            mask[torch.randperm(mask.numel(), generator=generator(seed, 0, name))[:counts[name]]] = True
            masks[name] = mask.view(shape)
    return masks


def _proportional(shapes, density, ratios):
    """Densities in proportion to `ratios`."""
    sizes = {name: shape.numel() for name, shape in shapes.items()}

    def scale(names, total):
        epsilon = total / sum(ratios[name] * sizes[name] for name in names)
        return _largest_remainder({name: epsilon * ratios[name] * sizes[name] for name in names}, total)

    return _with_dense_layers(sizes, density, scale)


def _largest_remainder(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Integers next to `shares`, which sum to `total`, with that sum; among equal remainders the first layer gains."""
    counts = {name: math.floor(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[:total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _with_dense_layers(
    sizes: Mapping[str, int], density: float, allot: Callable[[Sequence[str], int], Mapping[str, int]],
    least: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Counts by `allot(names, total)`, where a layer that gets less than `least` gets that, one that gets >= .99 of its size gets
    all, and the others the rest."""
    if not 0 < density <= 1:
        raise ValueError(f'density must be in (0, 1], got {density!r}')
    total = round(density * sum(sizes.values()))
    settled: dict[str, int] = {}
    while True:
        free = [name for name in sizes if name not in settled]
        rest = total - sum(settled.values())
        if (rest > 0) != bool(free) or rest < 0:
            raise ValueError(f'density {density} cannot be reached: the layers at >= {DENSE} stay dense ({list(settled)}), '
                             f'which leaves {rest} weights for the others ({free})')
        counts = allot(free, rest) if free else {}
        few = {name: least[name] for name in free if counts[name] < least[name]} if least else {}
        full = {name: sizes[name] for name in free if counts[name] >= DENSE * sizes[name]}
        if not few and not full:
            return {name: settled.get(name) or counts[name] for name in sizes}
        settled.update(few or full)
