import logging
import warnings
from contextlib import contextmanager
from copy import deepcopy
from typing import Iterator

from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn


def build_model(cfg: Config) -> BaseModel:
    """The model of a config, as the Runner builds it for one process, where SyncBN layers become BN.

    Args:
        cfg (Config): Of any OpenMMLab library. It is not changed.

    Returns:
        BaseModel: At the weights that its constructor gives it: ``init_weights()`` has not been called.
    """
    settings = deepcopy(cfg.model)  # detectors write into the configs of their heads
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return revert_sync_batchnorm(MODELS.build(settings))


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards each module of a model is in the mode, training or evaluation, that it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def quiet() -> Iterator[None]:
    """Within it libraries neither warn nor log, but for errors: where a model is built as a part of something else."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
