"""Dynamic sparsity of a model whose weights torch's FullyShardedDataParallel spreads over the processes."""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from mmengine.logging import print_log
from torch import distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from ..sparsity import DynamicSparsity, Masks


class ShardedMasks(Masks):
    """Masks of parameters of which each process holds a part. Every process has whole masks, and applies its part of them.

    Build it where the parameters are whole, then call :meth:`locate` where they are not. `assign`, `exchange` and `load_state_dict`
    want them whole, and everything else works either way.
    """

    def __init__(self, params: Mapping[str, torch.nn.Parameter]):
        super().__init__(params)
        self.shapes = {name: param.shape for name, param in params.items()}

    def locate(self, group: dist.ProcessGroup) -> None:
        """Finds which part this process holds, from how much the others of ``group`` do. All of them must call it."""
        sizes = {name: param.numel() for name, param in self.params.items()}
        everyone: list = [None] * group.size()
        dist.all_gather_object(everyone, sizes, group)
        before = everyone[:dist.get_rank(group)]
        self._parts = {name: slice(start, start + size) for name, size in sizes.items()
                       for start in [0 if size == self.shapes[name].numel() else sum(other[name] for other in before)]}

    @torch.no_grad()
    def _multiply_(self, tensors_of: Callable[[torch.nn.Parameter], list[torch.Tensor]]) -> None:
        self._follow()
        for name, mask in self.active.items():
            for tensor in tensors_of(self.params[name]):
                # parts are of the memory, which the mask lays out as the weights do
                tensor.mul_(mask if tensor.shape == mask.shape else mask.as_strided((mask.numel(), ), (1, ))[self._parts[name]])

    @property
    def total(self) -> int:
        return sum(shape.numel() for shape in self.shapes.values())

    def _counts(self, held: Mapping[str, torch.Tensor]) -> dict[str, int]:
        return {name: int(held[name].count_nonzero()) if name in held else shape.numel() for name, shape in self.shapes.items()}

    def state_dict(self) -> dict[str, dict]:
        return {name: {**entry, 'shape': list(self.shapes[name])} for name, entry in super().state_dict().items()}


class ShardedSparsity(DynamicSparsity):
    """:class:`slak_mm.sparsity.DynamicSparsity` of a model under FSDP: the same masks, and the state that any other run can resume.

    Without traffic in a step; an adaptation gathers the weights (with ``grow='gradient'``, gradients too) once.

    Args:
        model (FSDP): The outermost wrapper, with ``use_orig_params=True``.
        args, kwargs: Of ``DynamicSparsity``.

    Raises:
        ValueError: Parameters are flattened (``use_orig_params=False``), or ``grow='momentum'``: the moments cannot be gathered.
    """

    def __init__(self, model: FSDP, *args, **kwargs):
        self._model = model
        with FSDP.summon_full_params(model):
            super().__init__(model, *args, **kwargs)
            self.masks = ShardedMasks(self.masks.params)
        held = set(map(id, model.parameters()))
        if any(id(param) not in held for param in self.masks.params.values()):
            raise ValueError('Under FSDP the masks need each parameter by itself: set use_orig_params=True in the model wrapper.')
        if self.units.groups or self.config.get('pattern'):
            raise ValueError('Under FSDP, which spreads the weights over the processes, only single weights can be masked: use '
                             "granularity='weight' without a pattern, or DDP.")
        if self.config['grow'] == 'momentum':
            raise ValueError("grow='momentum' does not work under FSDP, which spreads the moments over the processes: use "
                             "grow='gradient', or DDP.")
        assert model.process_group is not None  # FSDP's constructor made or was given one
        self.masks.locate(model.process_group)

    def initialize(self, gradients=None, reduce=None) -> None:
        """As in ``DynamicSparsity``. A function as ``gradients`` must call the wrapper, and ``.grad`` of all parameters is lost."""
        if not callable(gradients):
            with FSDP.summon_full_params(self._model):
                return super().initialize(gradients, reduce)
        self._model.zero_grad()
        gradients().backward()
        with FSDP.summon_full_params(self._model, with_grads=True):
            # FSDP has averaged them
            super().initialize({name: param.grad for name, param in self.masks.params.items()}, reduce=lambda gradient: None)
        self._model.zero_grad()

    def load_state_dict(self, state: Mapping) -> None:
        """As in ``DynamicSparsity``."""
        with FSDP.summon_full_params(self._model):
            super().load_state_dict(state)

    def _adapt(self, optimizer: torch.optim.Optimizer) -> None:
        with FSDP.summon_full_params(self._model, writeback=False, with_grads=self.config['grow'] == 'gradient'):
            super()._adapt(optimizer)


def warn_of_lost_decay(masks: ShardedMasks, optimizer: torch.optim.Optimizer) -> None:
    """Warns if the groups of ``optimizer`` were made by the number of dimensions: under FSDP a weight has one, as biases do."""
    if not optimizer.defaults.get('weight_decay'):
        return
    without = {id(param) for group in optimizer.param_groups if not group['weight_decay'] for param in group['params']}
    lost = sum(id(param) in without for param in masks.params.values())
    if lost:
        print_log(f'Under FSDP {lost} of {len(masks.params)} weights get NO WEIGHT DECAY: each has one dimension there, like a bias, '
                  'which flat_decay_mult=0 and LayerDecayOptimWrapperConstructor go by. Use paramwise_cfg=dict(norm_decay_mult=0., '
                  'bias_decay_mult=0.), or DDP.', 'current', logging.WARNING)
