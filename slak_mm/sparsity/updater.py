from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from .allocation import snip_scores
from .criteria import GROW, PRUNE
from .masks import Masks, as_list
from .plan import Plan
from .rng import generator
from .schedule import Schedule, plain
from .targets import check_share, plain_target, plain_targets

INIT = ('snip', 'erk', 'uniform', 'checkpoint')
# options that came later: the state holds them only if they are not these
LATER = {'granularity': 'weight', 'pattern': None, 'start_sparsity': None, 'ramp': None}
# options that are properties of the masks
FIXED = ('sparsity', 'only', 'exclude', *LATER)

# a weight of zero whose gradient and moments are zero stays zero in these (not in any subclass)
KEEP_ZEROS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)

logger = logging.getLogger(__name__)


class DynamicSparsity:
    """Trains a model sparse from the first step to the last (Algorithm 1 of the SLaK paper).

    Use: build it, then `initialize` (a new run) or `load_state_dict` (a resumed one); then call `step` after each
    optimizer step that really took place and, to save time, `before_step` right before it. As hooks of the optimizer::

        optimizer.register_step_pre_hook(lambda optimizer, *_: sparsity.before_step(optimizer))
        optimizer.register_step_post_hook(lambda optimizer, *_: sparsity.step(optimizer))

    After each `step` the masked weights are zero, and so are the optimizer's moments of them. The number of active
    weights of each layer never changes, but by a `ramp`. A weight that grows starts at zero, with moments of zero, and was not
    pruned in the same round. Given the same seed, all ranks get the same masks without traffic.

    Args:
        model: a module that is not wrapped for distributed training.
        total_steps: optimizer steps of the whole run.
        sparsity: share of the maskable weights (or units, by `granularity`) that is masked, in [0, 1); or targets of one's own:
            a dict of patterns of names to shares, as {'stages.2.*': .6}, where what no pattern matches stays dense, and `init` is
            not used. Not used with init='checkpoint' or a `pattern`.
        init: layer-wise densities by 'snip', 'erk' or 'uniform', and masks at random; or 'checkpoint': the zeros of
            the weights are the masks.
        prune: 'magnitude' or 'set'.
        grow: 'random', 'gradient', 'momentum', or None to keep the masks as they are.
        interval, prune_rate, min_prune_rate, stop_at: see `Schedule`.
        seed: of the masks; the same on all ranks.
        only, exclude: see `maskable`.
        keep_moments: leave the optimizer's moments alone, those of masked and of growing weights too, as the authors
            do. None is True with grow='momentum', which ranks the masked weights by them, and else False.
        granularity: what is masked: 'weight'; 'neuron', hidden units of MLPs, with their rows, biases and columns; 'filter',
            kernels of depthwise convolutions, one a channel (see `units`); or a dict of some of these to their `sparsity`, as
            {'neuron': .3, 'weight': .2}: of the weights of neurons alive, and of all other ones, .2 are masked as well.
        pattern: 'N:M', as '2:4': at most N of M consecutive weights along the inputs of each matrix are active, from the first step
            on, and all other layers are dense. With init='checkpoint' these are the largest ones, else any.
        start_sparsity: with a `ramp`, the sparsity to start from: a share, below `sparsity` (0 if that is not one number); or
            'equal': all units, in which as many weights are masked as at the end; units then die one after the other, while their
            weights grow elsewhere in the layer (Chase; Yin et al., 2023). None is 0.
        ramp: (begin, end), see `Ramp`: from `start_sparsity` to `sparsity` meanwhile, each layer by its own target. None: the
            sparsity is constant.

    Attributes:
        masks: the `Masks`.
        units: the `Units`; none with granularity='weight'.
        schedule: the `Schedule`.
        steps: optimizer steps so far.

    Raises:
        ValueError: for an unknown name, or a value out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        sparsity: float | Mapping[str, float] = 0.4,
        init: str = 'snip',
        prune: str = 'magnitude',
        grow: str | None = 'random',
        interval: int = 100,
        prune_rate: float = 0.3,
        min_prune_rate: float = 0.005,
        stop_at: float | None = None,
        seed: int = 0,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        keep_moments: bool | None = None,
        granularity: str | Mapping[str, Any] = 'weight',
        pattern: str | None = None,
        start_sparsity: float | str | None = None,
        ramp: Sequence[float] | None = None,
    ):
        interval, prune_rate, min_prune_rate, stop_at, seed, total_steps = map(
            plain, (interval, prune_rate, min_prune_rate, stop_at, seed, total_steps))
        for argument, value, allowed in (('init', init, INIT), ('prune', prune, PRUNE), ('grow', grow, (*GROW, None))):
            if value not in allowed:
                raise ValueError(f'{argument}={value!r} is unknown; it can be {", ".join(map(repr, allowed))}')
        sparsity = plain_target('sparsity', sparsity)
        granularity = plain_targets(granularity, sparsity)[0]
        for argument, share in (('prune_rate', prune_rate), ('min_prune_rate', min_prune_rate)):
            check_share(argument, share, 1)
        if keep_moments is None:
            keep_moments = grow == 'momentum'
        elif grow == 'momentum' and not keep_moments:
            raise ValueError("grow='momentum' ranks the masked weights by their moments: it needs keep_moments=True")
        self.config: dict[str, Any] = {
            'sparsity': sparsity, 'init': init, 'prune': prune, 'grow': grow, 'total_steps': total_steps,
            'interval': interval, 'prune_rate': prune_rate, 'min_prune_rate': min_prune_rate, 'stop_at': stop_at,
            'seed': seed, 'only': as_list(only), 'exclude': as_list(exclude), 'keep_moments': keep_moments,
        }
        later = {'granularity': granularity, 'pattern': pattern, 'start_sparsity': start_sparsity,
                 'ramp': list(map(plain, ramp)) if isinstance(ramp, (list, tuple)) else ramp}
        self.config.update({name: value for name, value in later.items() if value != LATER[name]})
        self.schedule = Schedule(total_steps, interval, prune_rate, min_prune_rate, stop_at)
        self._plan = Plan(model, self.config)
        self.units, self.masks = self._plan.units, Masks(self._plan.params)
        self.steps = 0
        self._ready = False
        # where both hold, the optimizer step leaves the moments of masked weights at zero
        self._moments_zero = False
        self._gradients_masked = False

    @property
    def needs_gradients(self) -> bool:
        """Whether `initialize` needs the gradients of a batch: with init='snip', unless all targets are one's own."""
        return self._plan.needs_gradients

    def initialize(
        self,
        gradients: Mapping[str, torch.Tensor | None] | Callable[[], torch.Tensor] | None = None,
        reduce: Callable[[torch.Tensor], object] | None = None,
    ) -> None:
        """Make the first masks and apply them to the weights (Algorithm 1, lines 2 and 3).

        Args:
            gradients, reduce: if `needs_gradients`; see `snip_scores`.

        Raises:
            ValueError: see `allocate`, `uniform`, `snip` and `snip_scores`; also if gradients are needed and there are none.
        """
        if self.config['init'] == 'checkpoint':
            masks = self._plan.masks_of_weights()
            if all(mask is None for mask in masks.values()):
                logger.warning("init='checkpoint', but no layer has zeros among its weights: all stay dense")
        else:
            scores = None
            if self.needs_gradients:
                if gradients is None:
                    raise ValueError("init='snip' needs the gradients of one batch")
                scores = snip_scores(self.masks.params, gradients, reduce)
            masks = self._plan.draw_masks(scores)
        self.masks.assign(masks)
        empty = [name for name, count in self.masks.counts().items() if count == 0]
        if empty:
            logger.warning('sparsity %s leaves no weight in %s', self.config['sparsity'], empty)
        self._start()

    def _start(self) -> None:
        self.masks.apply_()
        self._ready, self._moments_zero = True, False

    @property
    def rate(self) -> float:
        """Share of a layer's active weights that an adaptation exchanges at this step."""
        return self.schedule.rate(self.steps)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Call it right before an optimizer step, or not at all: it saves `step` from passing through each moment.

        It masks the gradients, so that the moments of masked weights stay zero of themselves (in an optimizer that
        treats each weight alone, as SGD and Adam do). The weights become the same either way.
        """
        self._require_masks()
        grows_by_gradient = self.config['grow'] == 'gradient' and self._due(self.steps + 1)
        self._gradients_masked = not self.config['keep_moments'] and not grows_by_gradient
        if self._gradients_masked:
            if not self._moments_zero:
                self.masks.apply_(optimizer)
            self.masks.apply_to_gradients_()

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Call it after an optimizer step: counts it, applies the masks (Algorithm 1, line 7) and, if the schedule says
        so, adapts them (lines 8 to 13).

        Returns:
            Whether the masks were adapted.

        Raises:
            RuntimeError: before `initialize` or `load_state_dict`.
            ValueError: from the grow criterion; see `criteria`.
        """
        self._require_masks()
        keep_moments = self.config['keep_moments']
        self.steps += 1
        if not self._gradients_masked or type(optimizer) not in KEEP_ZEROS:
            self.masks.apply_(None if keep_moments or self._gradients_masked else optimizer)
        adapt = self._due(self.steps)
        if adapt:
            self._adapt(optimizer)
            self.masks.apply_(None if keep_moments else optimizer)
        self._moments_zero, self._gradients_masked = not keep_moments, False
        return adapt

    def _due(self, step: int) -> bool:
        return self._exchanges(step) or self._plan.ramp is not None and self._plan.ramp.due(step)

    def _exchanges(self, step: int) -> bool:
        return self.config['grow'] is not None and self.schedule.due(step)

    def _adapt(self, optimizer: torch.optim.Optimizer) -> None:
        # what is pruned from a frozen layer is lost, and what grows stays zero
        for name in self.units.alive:
            if all(self.masks.params[param].requires_grad for param, _ in self.units.groups[name].parts):
                self._adapt_units(name, optimizer)
        names = [name for name in self._plan.weights if name in self.masks.active and self.masks.params[name].requires_grad]
        if all(mask.device.type == 'cpu' for mask in self.masks.active.values()):
            # the work on a layer is hardly parallel in itself, and no layer depends on another
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(lambda name: self._adapt_layer(name, optimizer), names))
        else:
            for name in names:
                self._adapt_layer(name, optimizer)

    @torch.no_grad()
    def _adapt_layer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        param, active = self.masks.params[name], self.masks.active[name]
        state, rng = optimizer.state.get(param, {}), generator(self.config['seed'], self.steps, name)
        rate = self.rate if self._exchanges(self.steps) else 0.
        try:
            if self._plan.pattern:
                prune, grow = PRUNE[self.config['prune']], self.config['grow']
                pruned, grown = self._plan.pattern.exchange(param, state, active, rate, prune, grow, rng)
            else:
                live = self.units.live(name, active.device)
                inactive = (~active if live is None else ~active & live).flatten().nonzero().squeeze(1)
                pruned, grown = self._choose(param, state, active.flatten(), inactive, rate, rng, name)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        self.masks.exchange(name, pruned, grown)

    @torch.no_grad()
    def _adapt_units(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        params = {param: self.masks.params[param] for param, _ in self.units.groups[name].parts}
        # stands for the units: the mean of what is in each of them
        mean = nn.Parameter(self.units.mean(name, {param: p.detach().float().abs() for param, p in params.items()}, self.masks))
        if all(p.grad is not None for p in params.values()):
            mean.grad = self.units.mean(name, {param: p.grad.float().abs() for param, p in params.items()})  # type: ignore[union-attr]
        states = {param: optimizer.state.get(p, {}) for param, p in params.items()}
        state = {key: self.units.mean(name, {param: state[key].float().abs() for param, state in states.items()})
                 for key in ('exp_avg', 'momentum_buffer') if all(torch.is_tensor(state.get(key)) for state in states.values())}
        alive = self.units.alive[name].to(mean.device)
        rng = generator(self.config['seed'], self.steps, name)
        rate = self.rate if self._exchanges(self.steps) else 0.
        try:
            pruned, grown = self._choose(mean, state, alive, (~alive).nonzero().squeeze(1), rate, rng, name)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        self.units.exchange(name, pruned, grown, self.masks, rng)

    def _choose(self, values, state, active, inactive, rate, rng, name) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of the active weights, or units, to prune, and which of the inactive ones, that may, to grow.

        A share `rate` of the active ones is exchanged, and beyond it as many are pruned or grown as a ramp asks for.
        """
        now = int(active.count_nonzero())
        surplus = now - self._plan.count(name, active.numel(), now, self.steps)
        count = min(round(rate * now), inactive.numel())
        pruned = PRUNE[self.config['prune']](values.flatten(), min(count + max(surplus, 0), now), active)
        more = min(count + max(-surplus, 0), inactive.numel())
        return pruned, inactive[GROW[self.config['grow']](values, state, inactive, more, rng)] if more else inactive[:0]

    def _require_masks(self) -> None:
        if not self._ready:
            raise RuntimeError('there are no masks yet: call initialize() or load_state_dict() first')

    def state_dict(self) -> dict:
        """Step counter, config and packed masks: tensors, numbers, strings, None, and lists and dicts of them."""
        self._require_masks()
        state = {'steps': self.steps, 'config': dict(self.config), 'masks': self.masks.state_dict()}
        if self.units.groups:
            state['units'] = self.units.state_dict()
        if self._plan.ramp:
            state['final'] = dict(self._plan.final)
        return state

    def load_state_dict(self, state: Mapping) -> None:
        """Restore what `state_dict` returned, and apply the masks to the weights.

        `sparsity`, `granularity`, `pattern`, `ramp`, `start_sparsity`, `only` and `exclude` are properties of the masks, so they must
        be as they were. The others may change for the rest of the run; a warning tells which ones do.

        Raises:
            ValueError: when something is missing, the masks are of another model, or one of these differs.
                Nothing is changed then.
        """
        needed = ['steps', 'config', 'masks', *(['units'] if self.units.groups else ()), *(['final'] if self._plan.ramp else ())]
        missing = [key for key in needed if key not in state]
        if missing:
            raise ValueError(f'this is not the state of a DynamicSparsity: {missing} missing')
        if not isinstance(state['steps'], int) or state['steps'] < 0 or not isinstance(state['config'], Mapping):
            raise ValueError(f'this is not the state of a DynamicSparsity: steps={state["steps"]!r}, config={state["config"]!r}')
        theirs, ours = {**LATER, **state['config']}, {**LATER, **self.config}
        changed = {key: (theirs.get(key), value) for key, value in ours.items() if theirs.get(key) != value}
        fixed = [key for key in FIXED if key in changed]
        if fixed:
            raise ValueError('the checkpoint was made with other masks: '
                             + ', '.join('{}={!r}, not {!r}'.format(key, *changed[key]) for key in fixed))
        if self.units.groups:
            self.units.check(state['units'])
        self.masks.load_state_dict(state['masks'])
        if self.units.groups:
            self.units.load_state_dict(state['units'])
        if self._plan.ramp:
            self._plan.final = dict(state['final'])
        if changed:
            logger.warning('resumed with another config: %s',
                           ', '.join('{}={!r} -> {!r}'.format(key, *values) for key, values in changed.items()))
        self.steps = state['steps']
        self._start()
