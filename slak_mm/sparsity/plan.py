"""What is masked, how much of it, and when: the first masks, and how many weights and units there are at each step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .allocation import allocate, draw, from_weights, unit_ratios, unscored
from .criteria import SCORES
from .masks import maskable
from .pattern import Pattern
from .rng import generator
from .schedule import Ramp, plain
from .targets import check_share, plain_targets
from .units import Units, find

logger = logging.getLogger(__name__)


class Plan:
    """The options `sparsity`, `granularity`, `pattern`, `init`, `ramp`, `start_sparsity`, `only` and `exclude`, for one model.

    First come the units. What is in units alive is then a smaller model: its layers' shapes, scores and masks are those without dead
    slices, so that all that is known of weights alone serves within units too.

    Args:
        model, config: see `DynamicSparsity`.

    Attributes:
        weights: names of the parameters of which single weights are masked.
        units: the `Units`.
        params: all parameters that may be masked, those that units have parts in too, by name.
        pattern: a `Pattern`, or None.
        ramp: a `Ramp`, or None.
        final: with a ramp, how many weights or units each layer or group has at the end of it; their names differ.
    """

    def __init__(self, model: nn.Module, config: Mapping[str, Any]):
        self.config = config
        self.targets = plain_targets(config.get('granularity', 'weight'), config['sparsity'])[1]
        self.pattern = self._make_pattern(config.get('pattern'))
        self.ramp = self._make_ramp(config.get('ramp'), config.get('start_sparsity'))
        self.final: dict[str, int] = {}
        chosen = config['only'], config['exclude']
        weights = maskable(model, *chosen) if 'weight' in self.targets else {}
        if self.pattern:
            whole, weights = weights, {name: p for name, p in weights.items() if self.pattern.fits(p)}
            if not weights:
                raise ValueError(f'no matrix for pattern={self.config["pattern"]!r} among {list(whole)}')
        groups = {}
        for kind in self.targets:
            if kind != 'weight':
                groups.update(find(model, kind, *chosen))
        named = dict(model.named_parameters())
        if config['init'] == 'snip':  # which has no score of what is frozen
            frozen = [name for name, p in weights.items() if not p.requires_grad]
            frozen += [name for name, group in groups.items() if not all(named[param].requires_grad for param, _ in group.parts)]
            if 0 < len(frozen) < len(weights) + len(groups):
                logger.warning('%s frozen layers stay dense and do not count: %s', len(frozen), frozen)
                weights = {name: p for name, p in weights.items() if name not in frozen}
                groups = {name: group for name, group in groups.items() if name not in frozen}
        parts = {param: named[param] for group in groups.values() for param, _ in group.parts}
        self.weights = list(weights)
        self.units = Units(groups, parts)
        self.params = {**weights, **parts}

    def _make_pattern(self, pattern) -> Pattern | None:
        if pattern is None:
            return None
        if self.config.get('granularity') or self.config.get('ramp'):
            raise ValueError('a pattern goes with neither granularity nor ramp: to have units removed too, train so, compact the '
                             'model (slak_mm.deploy.compact), and train the result with the pattern')
        if self.config['grow'] is not None and self.config['grow'] not in SCORES:
            raise ValueError(f'grow={self.config["grow"]!r} has no entry in SCORES, which a pattern needs')
        return Pattern(pattern)

    def _make_ramp(self, ramp, start) -> Ramp | None:
        if ramp is None:
            if start is not None:
                raise ValueError(f'start_sparsity={start!r} needs ramp=(begin, end)')
            return None
        if not isinstance(ramp, list) or len(ramp) != 2:
            raise ValueError(f'ramp must be (begin, end), got {ramp!r}')
        if self.config['init'] == 'checkpoint':
            raise ValueError("ramp goes to a sparsity, and init='checkpoint' says none: take 'snip', 'erk' or 'uniform'")
        both = len(self.targets) > 1 and 'weight' in self.targets
        if both and self.config['grow'] is None:
            raise ValueError('ramp with weights within units needs a rule to grow by: units take with them more or fewer weights')
        if start == 'equal':
            if not both:
                raise ValueError("start_sparsity='equal' moves from weights to units: it needs both in granularity, as "
                                 'dict(neuron=.3, weight=.2)')
        elif start:
            target = self.config['sparsity']
            check_share('start_sparsity', plain(start), 1 - 2**-53)
            if isinstance(self.config.get('granularity'), Mapping) or isinstance(target, Mapping) or start > target:
                raise ValueError(f'start_sparsity={start!r} must be 0, or below the one number that is sparsity')
        begin, end = ramp
        return Ramp(begin, end, self.config['interval'], self.config['total_steps'])

    @property
    def needs_gradients(self) -> bool:
        """Whether `initialize` needs the gradients of a batch: with init='snip', unless all targets are one's own."""
        return self.config['init'] == 'snip' and not self.pattern and not all(isinstance(t, Mapping) for t in self.targets.values())

    def masks_of_weights(self) -> dict[str, torch.Tensor | None]:
        """The masks that the zeros of the weights are."""
        params, units = self.params, self.units
        if self.pattern:
            return {name: self.pattern.largest(p.detach().float().abs()) & (p.detach() != 0) for name, p in params.items()}
        dead = {name: units.dead(name) for name in units.groups}
        units.alive = {name: ~zero for name, zero in dead.items() if zero.any() and not zero.all()}
        inner = from_weights({name: nn.Parameter(units.pick(name, params[name].detach())) for name in self.weights} if units.alive else
                             {name: params[name] for name in self.weights})
        return {name: units.spread(name, inner.get(name), p.device) for name, p in params.items()}

    def draw_masks(self, scores: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor | None]:
        """The masks to start with, at random places.

        Args:
            scores: of each parameter, from `snip_scores`, if `needs_gradients`.
        """
        params, units, seed = self.params, self.units, self.config['seed']
        if self.pattern:
            return {name: self.pattern.largest(torch.rand(p.shape, generator=generator(seed, 0, name))) for name, p in params.items()}
        sizes = {name: torch.Size([units.size(name)]) for name in units.groups}
        kept = self._allocate_units(sizes, scores)
        units.alive = self._draw_alive(sizes, kept)
        counts = self._allocate_weights(scores)
        if self.ramp:
            self.final = {name: count for name, count in kept.items() if count < units.size(name)}
            self.final.update({name: count for name, count in counts.items() if count < params[name].numel()})
            kept = {name: self.count(name, units.size(name), count, 0) for name, count in kept.items()}
            units.alive = self._draw_alive(sizes, kept)
            counts = {name: self.count(name, params[name].numel(), count, 0) for name, count in counts.items()}
        inner = draw({name: units.shape(name, params[name].shape) for name in counts}, counts, seed)
        masks = {name: units.spread(name, inner.get(name), p.device) for name, p in params.items()}
        whole = {name: torch.ones_like(p, dtype=torch.bool) for name, p in params.items()
                 if masks[name] is None and name in self.final}
        return {**masks, **whole}

    def _allocate_units(self, sizes, scores) -> dict[str, int]:
        kept: dict[str, int] = {}
        for kind, target in self.targets.items():
            own = {name: size for name, size in sizes.items() if self.units.groups[name].kind == kind}
            if own:
                layers = {name: {param: self.params[param].shape for param, _ in self.units.groups[name].parts
                                 if self.params[param].ndim > 1} for name in own}
                init = self.config['init']
                ratios = None if isinstance(target, Mapping) else unit_ratios(layers, target, init, scores)
                kept.update(allocate(own, target, init, ratios=ratios))
        return kept

    def _draw_alive(self, sizes, kept) -> dict[str, torch.Tensor]:
        drawn = draw(sizes, kept, self.config['seed'])
        whole = {name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()
                 if drawn[name] is None and name in self.final}
        return {name: alive for name, alive in {**drawn, **whole}.items() if alive is not None}

    def _allocate_weights(self, scores) -> dict[str, int]:
        if 'weight' not in self.targets:
            return {}
        params, target = self.params, self.targets['weight']
        shapes = {name: self.units.shape(name, params[name].shape) for name in self.weights}
        if scores is not None:
            scores = {name: self.units.pick(name, scores[name]) for name in self.weights}
            unknown = [] if isinstance(target, Mapping) else unscored(scores)
            if unknown:
                logger.warning('SNIP has no score of these layers, as no loss of the batch reaches them or their weights are '
                               'zero; they keep %.2f of their weights, the share of all: %s', 1 - target, unknown)
        return allocate(shapes, target, self.config['init'], scores)

    def count(self, name: str, size: int, now: int, step: int) -> int:
        """How many weights or units a layer or group of `size` has after `step` optimizer steps of the ramp; `now` without one."""
        final = self.final.get(name)
        if self.ramp is None or final is None:
            return now
        start = self.config.get('start_sparsity')
        if start == 'equal':
            first = size if name in self.units.groups else final
        else:
            first = size - round((size - final) * (start / self.config['sparsity'] if start else 0))
        return first - round((first - final) * self.ramp.progress(step))
