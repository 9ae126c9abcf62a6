"""Batch-norm statistics of weights that were not trained with them, such as averaged ones."""
from itertools import islice
from typing import Optional

from mmengine.device import get_device
from mmengine.model import BaseModel
from rich.progress import track
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from ..models.precision import autocast_forward
from .loss import drops, preprocess


class TrainingLoss(nn.Module):
    """An OpenMMLab model as torch's ``update_bn`` wants one: it takes a batch.

    What :func:`~slak_mm.training.loss.drops` stays off.

    Args:
        model (nn.Module): Of any OpenMMLab library.
    """

    def __init__(self, model: BaseModel):
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> 'TrainingLoss':
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)  # frozen ones too: their statistics were reset
            elif drops(module):
                module.training = False
        return self

    def forward(self, data) -> None:
        self.model._run_forward(preprocess(self.model, data), mode='loss')


def recalibrate(model: BaseModel, loader: DataLoader, num_iters: Optional[int] = None, amp: bool = False) -> int:
    """Estimates the batch-norm statistics of a model again, on a GPU if there is one; shows its progress.

    Args:
        model (nn.Module): Of any OpenMMLab library; its statistics are replaced.
        loader (DataLoader): Of training data.
        num_iters (int, optional): Number of batches. Defaults to None: one epoch, which is also the most.
        amp (bool): Whether to compute under autocast, see :func:`~slak_mm.models.precision.autocast_forward`. Defaults to False.

    Returns:
        int: Number of batches that were used.
    """
    model.to(get_device())
    if amp:
        autocast_forward(model)
    num_iters = min(num_iters or len(loader), len(loader))
    # of other modules, such as a loss that counts its samples, or a head that averages over batches
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    statistics = {id(buffer) for norm in norms for buffer in norm.buffers()}
    others = [(buffer, buffer.clone()) for buffer in model.buffers() if id(buffer) not in statistics]
    update_bn(track(islice(loader, num_iters), total=num_iters), TrainingLoss(model))
    for buffer, value in others:
        buffer.copy_(value)
    return num_iters
