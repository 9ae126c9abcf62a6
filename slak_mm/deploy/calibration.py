"""Images of a config's training data, to calibrate an exported file with; and the file's metrics on the test data."""
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from ..errors import InputError
from ..models.build import quiet
from ..registry import MODELS, enter_scope
from .evaluation import remove_ema
from .exported import exported_cfg
from .predict import innermost


def calibration_images(cfg: Config, path: str, count: int) -> List[np.ndarray]:
    """What a file takes, of images spread evenly over the training data, prepared by the test pipeline.

    Args:
        cfg (Config): Of the model that was exported.
        path (str): Of the file.
        count (int): Number of images; of a smaller data set, all.

    Returns:
        list[ndarray]: (1, C, H, W) each.

    Raises:
        InputError: The config names no training data, or the file is not of its model.
    """
    if not cfg.get('train_dataloader'):
        raise InputError('the config has no train_dataloader, whose data set the file is calibrated on. Add one.')
    enter_scope(cfg)
    dataset_cfg = deepcopy(innermost(cfg.train_dataloader.dataset))
    dataset_cfg['pipeline'] = deepcopy(innermost(cfg.test_dataloader.dataset)['pipeline'])
    with quiet(), redirect_stdout(StringIO()):
        dataset = DATASETS.build(dataset_cfg)
    model = MODELS.build(exported_cfg(cfg, path))
    indices = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    images = []
    for index in indices:
        (image, ), _ = model.prepare(pseudo_collate([dataset[int(index)]]))
        images.append(np.ascontiguousarray(image[None].numpy()))
    return images


def metrics_of(cfg: Config, path: str) -> Dict[str, float]:
    """What the config's own test says of an exported file, by the Runner.

    Args:
        cfg (Config): As :func:`slak_mm.checks.load_config` returns it. It is not changed.
        path (str): Of the file.
    """
    cfg = deepcopy(cfg)
    enter_scope(cfg)
    cfg.model = exported_cfg(cfg, path)
    cfg.update(load_from=None, resume=False, experiment_name=f'{Path(path).stem}_{Path(path).stat().st_mtime_ns}')
    remove_ema(cfg)
    with quiet(), redirect_stdout(StringIO()):  # COCO's own code prints
        metrics: Dict[str, Any] = Runner.from_cfg(cfg).test()
    return {name: float(value) for name, value in metrics.items()}
