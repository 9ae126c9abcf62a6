from copy import copy

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, as the Runner builds it for one process, where SyncBN layers become BN.

    Args:
        cfg (Config): Of any OpenMMLab library. It is not changed.

    Returns:
        nn.Module: At the weights that its constructor gives it: ``init_weights()`` has not been called.
    """
    settings = copy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return revert_sync_batchnorm(MODELS.build(settings))
