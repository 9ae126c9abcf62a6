from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from .allocation import draw, erk, from_weights, snip, snip_scores, uniform, unscored
from .criteria import GROW, PRUNE
from .masks import Masks, as_list, maskable
from .rng import generator
from .schedule import Schedule, plain

INIT = ('snip', 'erk', 'uniform', 'checkpoint')

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
    weights of each layer never changes. A weight that grows starts at zero, with moments of zero, and was not pruned in
    the same round. Given the same seed, all ranks get the same masks without traffic.

    Args:
        model: a module that is not wrapped for distributed training.
        total_steps: optimizer steps of the whole run.
        sparsity: share of the maskable weights that is masked, in [0, 1). Not used with init='checkpoint'.
        init: layer-wise densities by 'snip', 'erk' or 'uniform', and masks at random; or 'checkpoint': the zeros of
            the weights are the masks.
        prune: 'magnitude' or 'set'.
        grow: 'random', 'gradient', 'momentum', or None to keep the masks as they are.
        interval, prune_rate, min_prune_rate, stop_at: see `Schedule`.
        seed: of the masks; the same on all ranks.
        only, exclude: see `maskable`.
        keep_moments: leave the optimizer's moments alone, those of masked and of growing weights too, as the authors
            do. None is True with grow='momentum', which ranks the masked weights by them, and else False.

    Attributes:
        masks: the `Masks`.
        schedule: the `Schedule`.
        steps: optimizer steps so far.

    Raises:
        ValueError: for an unknown name, or a value out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        sparsity: float = 0.4,
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
    ):
        sparsity, interval, prune_rate, min_prune_rate, stop_at, seed, total_steps = map(
            plain, (sparsity, interval, prune_rate, min_prune_rate, stop_at, seed, total_steps))
        for argument, value, allowed in (('init', init, INIT), ('prune', prune, PRUNE), ('grow', grow, (*GROW, None))):
            if value not in allowed:
                raise ValueError(f'{argument}={value!r} is unknown; it can be {", ".join(map(repr, allowed))}')
        for argument, share, most in (('sparsity', sparsity, 1 - 2**-53), ('prune_rate', prune_rate, 1),
                                      ('min_prune_rate', min_prune_rate, 1)):
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= most:
                raise ValueError(f'{argument} must be in [0, 1{"]" if most == 1 else ")"}, got {share!r}')
        if keep_moments is None:
            keep_moments = grow == 'momentum'
        elif grow == 'momentum' and not keep_moments:
            raise ValueError("grow='momentum' ranks the masked weights by their moments: it needs keep_moments=True")
        self.config: dict[str, Any] = {
            'sparsity': sparsity, 'init': init, 'prune': prune, 'grow': grow, 'total_steps': total_steps,
            'interval': interval, 'prune_rate': prune_rate, 'min_prune_rate': min_prune_rate, 'stop_at': stop_at,
            'seed': seed, 'only': as_list(only), 'exclude': as_list(exclude), 'keep_moments': keep_moments,
        }
        self.schedule = Schedule(total_steps, interval, prune_rate, min_prune_rate, stop_at)
        params = maskable(model, only, exclude)
        frozen = [name for name, p in params.items() if not p.requires_grad]
        if init == 'snip' and 0 < len(frozen) < len(params):  # which has no score of them
            logger.warning('%s frozen layers stay dense and do not count: %s', len(frozen), frozen)
            params = {name: p for name, p in params.items() if p.requires_grad}
        self.masks = Masks(params)
        self.steps = 0
        self._ready = False
        # where both hold, the optimizer step leaves the moments of masked weights at zero
        self._moments_zero = False
        self._gradients_masked = False

    def initialize(
        self,
        gradients: Mapping[str, torch.Tensor | None] | Callable[[], torch.Tensor] | None = None,
        reduce: Callable[[torch.Tensor], object] | None = None,
    ) -> None:
        """Make the first masks and apply them to the weights (Algorithm 1, lines 2 and 3).

        Args:
            gradients, reduce: for init='snip' only; see `snip_scores`.

        Raises:
            ValueError: see `uniform`, `snip` and `snip_scores`; also for init='snip' without gradients.
        """
        params, config = self.masks.params, self.config
        if config['init'] == 'checkpoint':
            masks = from_weights(params)
            if all(mask is None for mask in masks.values()):
                logger.warning("init='checkpoint', but no layer has zeros among its weights: all stay dense")
        else:
            shapes, density = {name: p.shape for name, p in params.items()}, 1 - config['sparsity']
            if config['init'] == 'snip':
                if gradients is None:
                    raise ValueError("init='snip' needs the gradients of one batch")
                scores = snip_scores(params, gradients, reduce)
                unknown = unscored(scores)
                if unknown:
                    logger.warning('SNIP has no score of these layers, as no loss of the batch reaches them or their weights are '
                                   'zero; they keep %.2f of their weights, the share of all: %s', density, unknown)
                counts = snip(scores, density)
            else:
                counts = {'erk': erk, 'uniform': uniform}[config['init']](shapes, density)
            masks = draw(shapes, counts, config['seed'])
        self.masks.assign(masks)
        empty = [name for name, count in self.masks.counts().items() if count == 0]
        if empty:
            logger.warning('sparsity %s leaves no weight in %s', config['sparsity'], empty)
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
        grows_by_gradient = self.config['grow'] == 'gradient' and self.schedule.due(self.steps + 1)
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
        adapt = self.config['grow'] is not None and self.schedule.due(self.steps)
        if adapt:
            self._adapt(optimizer)
            self.masks.apply_(None if keep_moments else optimizer)
        self._moments_zero, self._gradients_masked = not keep_moments, False
        return adapt

    def _adapt(self, optimizer: torch.optim.Optimizer) -> None:
        # what is pruned from a frozen layer is lost, and what grows stays zero
        names = [name for name in self.masks.active if self.masks.params[name].requires_grad]
        if all(mask.device.type == 'cpu' for mask in self.masks.active.values()):
            # the work on a layer is hardly parallel in itself, and no layer depends on another
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(lambda name: self._adapt_layer(name, optimizer), names))
        else:
            for name in names:
                self._adapt_layer(name, optimizer)

    @torch.no_grad()
    def _adapt_layer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        prune, grow = PRUNE[self.config['prune']], GROW[self.config['grow']]
        param, active = self.masks.params[name], self.masks.active[name].flatten()
        inactive = (~active).nonzero().squeeze(1)
        count = min(round(self.rate * (active.numel() - inactive.numel())), inactive.numel())
        rng = generator(self.config['seed'], self.steps, name)
        try:
            pruned = prune(param.flatten(), count, active)
            grown = inactive[grow(param, optimizer.state.get(param, {}), inactive, count, rng)]
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        self.masks.exchange(name, pruned, grown)

    def _require_masks(self) -> None:
        if not self._ready:
            raise RuntimeError('there are no masks yet: call initialize() or load_state_dict() first')

    def state_dict(self) -> dict:
        """Step counter, config and packed masks: tensors, numbers, strings, None, and lists and dicts of them."""
        self._require_masks()
        return {'steps': self.steps, 'config': dict(self.config), 'masks': self.masks.state_dict()}

    def load_state_dict(self, state: Mapping) -> None:
        """Restore what `state_dict` returned, and apply the masks to the weights.

        `sparsity`, `only` and `exclude` are properties of the masks, so they must be as they were. The others may
        change for the rest of the run; a warning tells which ones do.

        Raises:
            ValueError: when something is missing, the masks are of another model, or one of these three differs.
                Nothing is changed then.
        """
        missing = [key for key in ('steps', 'config', 'masks') if key not in state]
        if missing:
            raise ValueError(f'this is not the state of a DynamicSparsity: {missing} missing')
        if not isinstance(state['steps'], int) or state['steps'] < 0 or not isinstance(state['config'], Mapping):
            raise ValueError(f'this is not the state of a DynamicSparsity: steps={state["steps"]!r}, config={state["config"]!r}')
        changed = {key: (state['config'].get(key), value) for key, value in self.config.items()
                   if state['config'].get(key) != value}
        fixed = [key for key in ('sparsity', 'only', 'exclude') if key in changed]
        if fixed:
            raise ValueError('the checkpoint was made with other masks: '
                             + ', '.join('{}={!r}, not {!r}'.format(key, *changed[key]) for key in fixed))
        self.masks.load_state_dict(state['masks'])
        if changed:
            logger.warning('resumed with another config: %s',
                           ', '.join('{}={!r} -> {!r}'.format(key, *values) for key, values in changed.items()))
        self.steps = state['steps']
        self._start()
