"""The models of this project's configs, by name."""
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import List, Optional

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope

from .checkpoints import PretrainedInit
from .compat.versions import CONFIG_FOLDERS, check_configs, find_config
from .models.build import build_model


def list_models(pattern: str = '*') -> List[str]:
    """Names for :func:`get_model`: the configs of this project.

    Args:
        pattern (str): As in a shell, e.g. ``'*ade20k'``. Defaults to all.

    Raises:
        FileNotFoundError: The installation has no configs.
    """
    check_configs()
    return sorted(path.stem for folder in CONFIG_FOLDERS for path in folder.glob('*.py') if fnmatch(path.stem, pattern))


def get_model(name: str, pretrained: Optional[str] = None) -> BaseModel:
    """Builds the model of a config: a classifier, a segmentor or a detector, in evaluation mode.

    Args:
        name (str): One of :func:`list_models`.
        pretrained (str, optional): Path or URL of an official, downstream, converted or mmengine file. Of an ImageNet file a segmentor
            or detector takes the backbone. Defaults to None: initial weights.

    Raises:
        ValueError: There is no such model.
        CheckpointError: The file is unreadable, unsafe, or does not fit.
    """
    names = list_models()
    if name not in names:
        similar = get_close_matches(name, names) or names
        raise ValueError(f'There is no model {name!r}. Did you mean {", ".join(similar)}? slak_mm.list_models() has all.')
    cfg = Config.fromfile(find_config(f'{name}.py'))
    cfg.model.backbone.pop('init_cfg', None)  # the file that a training would start from
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg)
        model.init_weights()
    if pretrained is not None:
        PretrainedInit(checkpoint=pretrained)(model)
    return model.eval()
