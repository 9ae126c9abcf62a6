"""N:M patterns: of each M consecutive weights along the inputs of a matrix, at most N are not zero. GPUs multiply faster by 2:4."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

from .criteria import SCORES


class Pattern:
    """At most `n` of `m` consecutive weights of a row, in matrices (outputs, inputs) and kernels of 1x1 convolutions.

    A row's last group may have fewer than `m` weights, and `n` of these.

    Args:
        text: as '2:4'.

    Raises:
        ValueError: it is not N:M with 0 < N < M.
    """

    def __init__(self, text: str):
        match = re.match(r'(\d+):(\d+)$', text) if isinstance(text, str) else None
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise ValueError(f"pattern must be None or 'N:M' with 0 < N < M, as '2:4', got {text!r}")
        self.n, self.m = int(match[1]), int(match[2])

    def fits(self, weight: torch.Tensor) -> bool:
        """Whether `weight` is a matrix, or a 1x1 kernel, whose rows have a whole group."""
        return (weight.ndim == 2 or weight.ndim == 4 and weight[0, 0].numel() == 1) and weight.shape[1] >= self.m

    def groups(self, tensor: torch.Tensor, fill) -> torch.Tensor:
        """(groups, m) of a tensor (outputs, inputs[, 1, 1]); the last group of each row is filled up."""
        rows = tensor.flatten(1)
        return nn.functional.pad(rows, (0, -rows.shape[1] % self.m), value=fill).view(-1, self.m)

    def ungroup(self, groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The inverse of `groups`."""
        return groups.reshape(shape[0], -1)[:, :shape[1]].reshape(shape)

    def largest(self, scores: torch.Tensor) -> torch.Tensor:
        """The mask of the `n` largest of each group of `scores`, which has the shape of a weight; among equals the first ones."""
        order = self.groups(scores, float('-inf')).sort(dim=1, descending=True, stable=True).indices
        mask = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :self.n], True)
        return self.ungroup(mask, scores.shape)

    def holds(self, mask: torch.Tensor) -> bool:
        """Whether no group of `mask`, bool of a weight's shape, has more than `n` active weights."""
        return bool((self.groups(mask, False).sum(1) <= self.n).all())

    def exchange(
        self, param: nn.Parameter, state: Mapping, active: torch.Tensor, rate: float, prune: Callable, grow: str, rng: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One weight of a group for another one of it, in so many groups that a share `rate` of the active weights is exchanged.

        In each group the weakest active weight may be pruned; `prune` chooses among those. What grows is the best of the group by
        `grow`. So the number of active weights of each group stays.

        Args:
            param, state: the weight, and the optimizer's state of it.
            active: its mask.
            rate: share of the active weights, in [0, 1].
            prune: of `PRUNE`.
            grow: a key of `SCORES`.
            rng: a CPU generator.

        Returns:
            Flat indices of what is pruned, and of what grows, as many.
        """
        grouped = self.groups(active, False)
        candidates = self.groups(torch.ones_like(active), False) & ~grouped
        movable = grouped.any(1) & candidates.any(1)
        magnitudes = self.groups(param.detach().float().abs(), 0.)
        weakest = magnitudes.masked_fill(~grouped, float('inf')).argmin(1, keepdim=True)
        eligible = torch.zeros_like(grouped).scatter_(1, weakest, movable[:, None])
        count = min(round(rate * int(active.count_nonzero())), int(movable.count_nonzero()))
        pruned = prune(param.flatten(), count, self.ungroup(eligible, param.shape).flatten())
        places = self.groups(torch.arange(active.numel(), device=active.device).view(active.shape), 0)
        row = pruned.div(active[0].numel(), rounding_mode='floor')
        group = row * (len(grouped) // len(active)) + (pruned % active[0].numel()).div(self.m, rounding_mode='floor')
        scores = self.groups(SCORES[grow](param, state, rng).view_as(param), 0.)[group]
        best = scores.masked_fill(~candidates[group], float('-inf')).argmax(1, keepdim=True)
        return pruned, places[group].gather(1, best).squeeze(1)
