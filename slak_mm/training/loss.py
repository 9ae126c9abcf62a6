"""The loss of a model of any OpenMMLab library on a batch, outside of a training loop."""
from contextlib import contextmanager
from typing import Iterator

from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from ..models.build import kept_modes


def preprocess(model: BaseModel, data):
    """Images as ``model`` trains on them, padded to one size, but not mixed (mixup, CutMix).

    Args:
        model (BaseModel): With a data preprocessor of any of the three libraries.
        data: A batch, as the loader gives it.
    """
    preprocessor = model.data_preprocessor
    augments = getattr(preprocessor, 'batch_augments', None)
    try:
        if augments is not None:
            preprocessor.batch_augments = None
        return preprocessor(data, training=True)
    finally:
        if augments is not None:
            preprocessor.batch_augments = augments


def images_per_batch(loader: DataLoader) -> int:
    """Batch size of a loader, also of one with a batch sampler, as detectors have."""
    return loader.batch_size or loader.batch_sampler.batch_size  # type: ignore[union-attr,return-value]


def drops(module: nn.Module) -> bool:
    """Whether a module leaves out a random part of its input while it trains: dropout, drop path, DropBlock, attention dropout."""
    names = [kind.__name__ for kind in type(module).__mro__]
    is_leaf = next(module.children(), None) is None
    return isinstance(module, nn.MultiheadAttention) or is_leaf and any('drop' in name.lower() or name == 'StochasticDepth'
                                                                        for name in names)


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """In it the model trains, but what :func:`~slak_mm.training.loss.drops` is off; afterwards each module is in the mode it was in.

    Not ``model.eval()``: many heads return fewer or other outputs then, so that there is no loss of them, or a wrong one. Dropout and
    drop path are off, since in a small batch they may drop a block for all images.
    """
    with kept_modes(model):
        model.train()
        for module in model.modules():
            if drops(module):
                module.training = False
        yield
