from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def plain(value):
    """A number of numpy as one of Python; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Schedule:
    """When the masks adapt, and how much of them (Algorithm 1, lines 8 and 12; appendix B.3).

    All steps are optimizer steps, counted from 1. The defaults are the paper's f = 100 and p = 0.3, with a cosine decay
    to 0.005 over the whole run.

    Args:
        total_steps: length of the run.
        interval: steps between two adaptations.
        prune_rate: share of a layer's active weights that is exchanged, at step 0.
        min_prune_rate: the same share at `total_steps`.
        stop_at: from this step on the masks stay as they are; a float in (0, 1) is a share of `total_steps`, None is
            `total_steps`. (An adaptation after the last step would only replace trained weights by zeros.)

    Raises:
        ValueError: when an argument is out of its range.
    """

    total_steps: int
    interval: int = 100
    prune_rate: float = 0.3
    min_prune_rate: float = 0.005
    stop_at: float | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(self, name, plain(value))
        for name in ('total_steps', 'interval'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f'{name} must be an integer >= 1, got {value!r}')
        if not 0 <= self.min_prune_rate <= self.prune_rate <= 1:
            raise ValueError('the rates must obey 0 <= min_prune_rate <= prune_rate <= 1, got '
                             f'min_prune_rate={self.min_prune_rate!r}, prune_rate={self.prune_rate!r}')
        stop = self.stop_at
        if stop is not None and not (isinstance(stop, int) and stop >= 0 or isinstance(stop, float) and 0 < stop < 1):
            raise ValueError('stop_at must be None, a number of steps (an integer >= 0) or a share of total_steps '
                             f'(a float in (0, 1)), got {stop!r}')

    def rate(self, step: int) -> float:
        """Share of the active weights to exchange after `step` optimizer steps."""
        progress = min(step / self.total_steps, 1)
        return self.min_prune_rate + (self.prune_rate - self.min_prune_rate) * (1 + math.cos(math.pi * progress)) / 2

    def due(self, step: int) -> bool:
        """Whether the masks adapt after `step` optimizer steps."""
        stop = self.total_steps if self.stop_at is None else self.stop_at
        if isinstance(stop, float):
            stop *= self.total_steps
        return step % self.interval == 0 and 0 < step < min(stop, self.total_steps)


@dataclass(frozen=True)
class Ramp:
    """From one sparsity to another by the cubic curve of gradual magnitude pruning (Zhu & Gupta, 2017, equation 1).

    It moves where the masks may adapt, at multiples of `interval`; the first one from `end` on is its last.

    Args:
        begin, end: optimizer steps, integers, or shares of `total_steps`, floats in (0, 1).
        interval, total_steps: see `Schedule`.

    Raises:
        ValueError: unless 0 <= begin < end, and an adaptation comes between `end` and `total_steps`.
    """

    begin: float
    end: float
    interval: int
    total_steps: int

    def __post_init__(self):
        for name in ('begin', 'end'):
            value = plain(getattr(self, name))
            if isinstance(value, bool) or not (isinstance(value, int) and value >= 0 or isinstance(value, float) and 0 < value < 1):
                raise ValueError('ramp must be (begin, end): numbers of steps (integers >= 0) or shares of total_steps (floats in '
                                 f'(0, 1)), got {value!r}')
            object.__setattr__(self, name, value * self.total_steps if isinstance(value, float) else value)
        if not self.begin < self.end or self._last >= self.total_steps:
            raise ValueError(f'ramp ends at step {self._last}, the first multiple of interval={self.interval} from {self.end:g} on: '
                             f'it must begin (at {self.begin:g}) before it ends, and end before total_steps={self.total_steps}')

    @property
    def _last(self) -> int:
        return math.ceil(self.end / self.interval) * self.interval

    def progress(self, step: int) -> float:
        """From 0 at `begin` to 1 at `end`: 1 - (1 - x)**3, x the share of the way."""
        return 1 - (1 - min(max((step - self.begin) / (self.end - self.begin), 0), 1)) ** 3

    def due(self, step: int) -> bool:
        """Whether it moves after `step` optimizer steps."""
        return step % self.interval == 0 and self.begin < step <= self._last
