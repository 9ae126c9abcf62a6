import logging
import random
from contextlib import contextmanager
from typing import Any, Dict, Optional, Sequence, Union

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..compat import wrap_step
from ..models.wrappers import unwrap
from ..registry import HOOKS, register
from ..sparsity import DynamicSparsity
from ..sparsity.masks import called_otherwise
from .loss import images_per_batch, preprocess, training_mode
from .sharded import ShardedMasks, ShardedSparsity, warn_of_lost_decay
from .sparse_ema import SparseExponentialMovingAverage

CHECKPOINT_KEY = 'sparsity'


@contextmanager
def _separate_rng(seed: int):
    """Random numbers from ``seed``; afterwards every generator goes on as if nothing had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@register(HOOKS)
class SparsityHook(Hook):
    """Trains a model sparse: :class:`slak_mm.sparsity.DynamicSparsity` under mmengine (paper, Algorithm 1 and appendix B).

    The masks are applied after each *real* optimizer step, whatever accumulation or GradScaler skip, and so before EMA. They,
    the step counter and the options are part of every checkpoint, under 'sparsity'.

    - Pre-training: the defaults are the paper's.
    - Sparse fine-tuning: ``init='checkpoint', grow=None`` keeps each zero of the loaded weights at zero.
    - With EMA: ``EMAHook(ema_type='slak_mm.SparseExponentialMovingAverage', ...)``, which gets its masks from here.

    Args:
        sparsity (float | dict): Share of the maskable weights, or units, that is zero; or a dict of patterns of names to shares,
            ``{'stages.2.*': .6}``, where the rest stays dense and ``init`` is not used. Not used with ``init='checkpoint'`` or a
            ``pattern``. Defaults to 0.4.
        init (str): How sparse each layer is: ``'snip'``, ``'erk'``, ``'uniform'``, or ``'checkpoint'``: the masks are where the
            loaded weights are not zero; a layer with hardly a zero stays dense. Defaults to 'snip'.
        prune (str): ``'magnitude'`` or ``'set'``. Defaults to 'magnitude'.
        grow (str, optional): ``'random'``, ``'gradient'``, ``'momentum'``, or None for masks that never change. Defaults to 'random'.
        interval (int): Optimizer steps between two adaptations. Defaults to 100.
        prune_rate (float): Share of the active weights exchanged by the first adaptation. Defaults to 0.3.
        min_prune_rate (float): Where the cosine decay of that share ends. Defaults to 0.005.
        stop_at (int | float, optional): No adaptation from this step on; below 1, a share of the run. Defaults to None: never.
        exclude, only (Sequence[str]): Parts of parameter names that are not, or alone are, maskable. By default every weight
            with 2 or 4 dimensions is.
        seed (int, optional): Of the masks. Defaults to None: the Runner's.
        keep_moments (bool, optional): Leave the optimizer's moments of masked and growing weights, as the authors do. Defaults to
            None: only with ``grow='momentum'``.
        granularity (str | dict): ``'weight'``; ``'neuron'``, hidden units of MLPs with all their weights; ``'filter'``, kernels of
            depthwise convolutions, one a channel; or a dict of these to their ``sparsity``, as ``dict(neuron=.3, weight=.2)``, where
            weights are those in neurons alive, and all others. Defaults to 'weight'.
        pattern (str, optional): ``'N:M'``, as ``'2:4'``: N of M consecutive weights of each matrix are active, other layers are
            dense. Defaults to None.
        start_sparsity (float | str, optional): Where a ramp starts: a share, or ``'equal'``: all units, with as few weights as at the
            end, which then move out of units that die (Chase). Defaults to None: 0.
        ramp (Sequence[int | float], optional): (begin, end), in optimizer steps or shares of the run: sparsity rises meanwhile, by a
            cubic curve. Defaults to None: it is constant.

    Raises:
        ValueError: An unknown name, a value out of range, or a checkpoint to resume whose masks are missing or do not fit.
    """

    priority = 'NORMAL'

    def __init__(self,
                 sparsity: Union[float, Dict[str, float]] = 0.4,
                 init: str = 'snip',
                 prune: str = 'magnitude',
                 grow: Optional[str] = 'random',
                 interval: int = 100,
                 prune_rate: float = 0.3,
                 min_prune_rate: float = 0.005,
                 stop_at: Optional[Union[int, float]] = None,
                 exclude: Sequence[str] = (),
                 only: Sequence[str] = (),
                 seed: Optional[int] = None,
                 keep_moments: Optional[bool] = None,
                 granularity: Union[str, Dict[str, Any]] = 'weight',
                 pattern: Optional[str] = None,
                 start_sparsity: Optional[Union[float, str]] = None,
                 ramp: Optional[Sequence[Union[int, float]]] = None):
        self.options: Dict[str, Any] = dict(
            sparsity=sparsity, init=init, prune=prune, grow=grow, interval=interval, prune_rate=prune_rate,
            min_prune_rate=min_prune_rate, stop_at=stop_at, exclude=exclude, only=only, keep_moments=keep_moments,
            granularity=granularity, pattern=pattern, start_sparsity=start_sparsity, ramp=ramp)
        self.seed = seed
        self._resumed: Optional[dict] = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keeps the state of the masks until the weights are in."""
        if not runner._resume:
            return
        if CHECKPOINT_KEY not in checkpoint:
            raise ValueError('The checkpoint to resume holds no masks: it was saved without SparsityHook. Resuming it would draw '
                             "new masks over trained weights. Start from its weights instead (load_from), with init='checkpoint' "
                             'if they are sparse, or resume without SparsityHook.')
        self._resumed = checkpoint[CHECKPOINT_KEY]

    def before_train(self, runner) -> None:
        """Draws the masks, or restores them, and ties them to the optimizer."""
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            raise ValueError(f'SparsityHook works with one torch optimizer; the Runner has a {type(runner.optim_wrapper).__name__}. '
                             'Of the strategies of FlexibleRunner, use DDPStrategy or FSDPStrategy.')
        model = unwrap(runner.model)
        total_steps = -(-runner.max_iters // runner.optim_wrapper._accumulative_counts)
        seed = runner.seed if self.seed is None else self.seed
        sharded = isinstance(runner.model, FullyShardedDataParallel)
        kind: Any = ShardedSparsity if sharded else DynamicSparsity
        whole = runner.model if sharded else model
        self.sparsity: DynamicSparsity = kind(whole, total_steps, seed=seed, **self.options)
        if self._resumed is not None:
            self.sparsity.load_state_dict(self._resumed)
            self._resumed = None
        elif self.sparsity.needs_gradients:
            self._initialize_by_snip(runner, model, whole, seed)
        else:
            self.sparsity.initialize()
        optimizer = runner.optim_wrapper.optimizer
        wrap_step(optimizer, self.sparsity.before_step, self._step)
        self._share_masks(runner, model)
        self._measure()
        masks = self.sparsity.masks
        if isinstance(masks, ShardedMasks):
            warn_of_lost_decay(masks, optimizer)
        for line in self.sparsity.units.describe():
            print_log(f'SparsityHook: {line}.', 'current')
        if self.options['init'] == 'checkpoint' and not masks.active:
            print_log("SparsityHook: init='checkpoint', but no layer of the model has zeros: IT TRAINS DENSE. Load sparse weights "
                      "(the backbone's init_cfg, or tools/train.py --pretrained), or remove the hook.", 'current',
                      logging.WARNING)
        print_log(f'SparsityHook: {masks.nonzero:,} of {masks.total:,} maskable weights are active ({masks.density:.2%}); '
                  f'{len(masks.active)} of {len(masks.params)} layers are sparse; '
                  + (f'adapted every {self.options["interval"]} of {total_steps} steps.' if self._changes else
                     'the masks never change.'), 'current')
        unnamed = [] if self.options['only'] or 'weight' not in self.options['granularity'] else called_otherwise(model)
        if unnamed:
            print_log(f"SparsityHook: not called 'weight', and left dense unless named in only: {', '.join(unnamed)}.", 'current')

    @property
    def _changes(self) -> bool:
        return self.options['grow'] is not None or self.options['ramp'] is not None

    def _share_masks(self, runner, model: nn.Module) -> None:
        averages = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        if averages and isinstance(self.sparsity, ShardedSparsity):
            raise ValueError('EMAHook does not work under FSDP, which spreads the weights over the processes: use DDP, or no EMAHook.')
        sparse = [average for average in averages if isinstance(average, SparseExponentialMovingAverage)]
        for average in sparse:
            average.follow(self.sparsity, model)
        if self._changes and len(sparse) < len(averages):
            print_log('SparsityHook: the EMA WILL NOT BE SPARSE. A plain average keeps weights that were pruned: .990 of the value '
                      "after 100 steps, at momentum 1e-4. Set ema_type='slak_mm.SparseExponentialMovingAverage' in EMAHook.",
                      'current', logging.WARNING)

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        skipped = getattr(optimizer, 'found_inf', None)  # GradScaler leaves it to a fused optimizer to skip, inside `step`
        if (skipped is None or not skipped.item()) and self.sparsity.step(optimizer):
            self._measure()

    def _measure(self) -> None:
        masks = self.sparsity.masks
        self._scalars = {'train/density': masks.density, 'train/ever_active': masks.ever_active_share}

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Logs density, the share ever active and the share exchanged by an adaptation, if there are any."""
        if self._changes:
            runner.message_hub.update_scalars({**self._scalars, 'train/prune_rate': self.sparsity.rate})

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Adds the masks, packed to bits."""
        checkpoint[CHECKPOINT_KEY] = self.sparsity.state_dict()

    def _initialize_by_snip(self, runner, model: BaseModel, whole: BaseModel, seed: int) -> None:
        """On one global batch, in fp32, without mixup, dropout and drop path; leaves data order, every RNG and every buffer as is."""
        loader = runner.train_dataloader
        rank, world_size = get_dist_info()
        batch_size = images_per_batch(loader) * world_size
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with _separate_rng(seed), torch.autocast(next(model.parameters()).device.type, enabled=False):
            order, samples = torch.randperm(len(loader.dataset)).tolist(), []
            for position in range(rank, batch_size, world_size):
                # its own randomness, so that it does not matter how many processes share the batch
                with _separate_rng(seed + position):
                    samples.append(loader.dataset[order[position % len(order)]])
            data = preprocess(model, loader.collate_fn(samples))
            with training_mode(model):
                self.sparsity.initialize(lambda: model.parse_losses(whole._run_forward(data, mode='loss'))[0])
        for name, buffer in model.named_buffers():
            if name in buffers:  # and is not new
                buffer.copy_(buffers[name])
