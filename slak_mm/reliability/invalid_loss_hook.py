import logging
import math

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log

from ..errors import UserError
from ..models.wrappers import unwrap
from ..registry import HOOKS


class InvalidLossError(UserError, RuntimeError):
    """The loss is not finite, and training would only go on to spoil the weights."""


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Stops at a loss that is NaN or infinite, before it reaches a gradient, and names the iteration and the images.

    ``default_hooks=dict(check_loss=dict(type='slak_mm.CheckInvalidLossHook'))``. Weights, masks and average are those of the iteration
    before. Each iteration is looked at: mmengine's log waits for the loss of each one anyway. Where a GradScaler (fp16) leaves out
    steps whose gradients overflow, such an iteration is no more than a warning.

    Args:
        patience (int): With a GradScaler, how many iterations in a row may have such a loss. Defaults to 50.

    Raises:
        InvalidLossError: In the iteration; see above.
    """

    priority = 'VERY_HIGH'

    def __init__(self, patience: int = 50):
        self.patience = patience
        self._on_end = 0
        self._data_batch = None

    def before_train(self, runner) -> None:
        """Has the model show its losses once they are summed, before they go backward."""
        model = unwrap(runner.model)
        parse_losses = model.parse_losses

        def parse_and_check(losses):
            loss, log_vars = parse_losses(losses)
            # a part that is called 'loss', as in mmpretrain, hides the sum in log_vars
            summed = {**log_vars, 'loss': loss}
            self._check(runner, {name: float(torch.as_tensor(value).detach()) for name, value in summed.items() if 'loss' in name})
            return loss, log_vars

        model.parse_losses = parse_and_check

    def after_train(self, runner) -> None:
        """Leaves the model as it was."""
        del unwrap(runner.model).parse_losses

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Keeps the batch, to name its images."""
        self._data_batch = data_batch

    def _check(self, runner, losses: dict) -> None:
        if math.isfinite(losses['loss']):
            self._on_end = 0
            return
        self._on_end += 1
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        where = f'The loss is {losses["loss"]} at iteration {runner.iter + 1} (epoch {runner.epoch + 1}, rank {get_rank()})'
        if scaler is not None and scaler.is_enabled() and self._on_end < self.patience:
            print_log(f'{where}: GradScaler skips this step.', 'current', logging.WARNING)
            return
        raise InvalidLossError(
            f'{where}: {", ".join(f"{name} {value:.4g}" for name, value in losses.items())}. '
            f'Images: {_name_images(self._data_batch)}. Training stops before this step, and earlier checkpoints are untouched. '
            'Look at these images, lower the learning rate or clip gradients (optim_wrapper.clip_grad), and continue with --resume.')


def _name_images(data_batch) -> str:
    """Paths of the images of a batch, as mmpretrain, mmdet and mmseg hand them over."""
    samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
    return ', '.join(str(getattr(sample, 'img_path', '?')) for sample in samples or []) or 'of unknown names'
