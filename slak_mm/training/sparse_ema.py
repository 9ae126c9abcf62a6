from typing import Optional

import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from ..registry import MODELS, register
from ..sparsity import DynamicSparsity


@register(MODELS)
class SparseExponentialMovingAverage(ExponentialMovingAverage):
    """Moving average of a model that trains sparse: as sparse as the model, at any time.

    Used as ``EMAHook(ema_type='slak_mm.SparseExponentialMovingAverage', ...)`` together with :class:`SparsityHook`, which hands it the
    masks. In a layer with a mask, with decay d = 1 - ``momentum`` and weights w::

        ema = (d * ema + (1 - d) * w) * mask
        ema = w                                 where ema was 0 and mask is 1

    as in the authors' code (``model_sema.py``). A plain average leaks: of a pruned weight, d**100 = .990 is left after 100 steps,
    and one that has grown needs thousands of steps to get near its value. All other tensors are averaged as usual.

    It starts from the initial, masked weights, and averages once after each *real* optimizer step: iterations that only
    accumulate gradients, and steps that GradScaler skips, change nothing. So ``momentum`` needs no care under accumulation, and
    ``interval`` counts optimizer steps. Without SparsityHook it is mmengine's plain average of every iteration.

    Arguments are those of :class:`mmengine.model.ExponentialMovingAverage`.
    """

    _sparsity: Optional[DynamicSparsity] = None

    def follow(self, sparsity: DynamicSparsity, model: nn.Module) -> None:
        """Takes masks and step counter from ``sparsity``, and the weights of ``model`` if there is no average yet.

        Args:
            sparsity (DynamicSparsity): Initialized or resumed.
            model (nn.Module): The model that it makes sparse, not wrapped for distributed training.
        """
        self._sparsity, self._averaged_steps = sparsity, sparsity.steps
        if self.steps == 0:
            super().update_parameters(model)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Averages ``model`` in, if its optimizer has stepped since the last call."""
        if self._sparsity is None:
            super().update_parameters(model)
        elif self._averaged_steps != self._sparsity.steps:
            self._averaged_steps = self._sparsity.steps
            masks = self._sparsity.masks
            averages = {name: self.avg_parameters[name] for name in masks.active}
            for name, average in averages.items():
                # w where the average is 0: then w and w average to w; and where the mask is 0, so is w
                average.add_(masks.params[name].to(average.device) * (average == 0))
            super().update_parameters(model)
            for name, average in averages.items():
                average.mul_(masks.active[name].to(average.device))
