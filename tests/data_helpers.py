"""Toy data sets, spoilt in one way, and our configs made small on them."""
import json
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import numpy as np
from micro_configs import set_data, shrink
from mmengine import Config
from PIL import Image

from slak_mm.checks import check_config
from slak_mm.checks.config import set_loader_defaults
from slak_mm.toy import LAYOUTS, ToySpec, write_ade20k, write_coco, write_imagenet, write_voc07

CONFIGS = Path(__file__).parents[1] / 'configs'
TASKS = dict(
    seg=(write_ade20k, 'upernet_slak_micro_toy_ade20k'),
    cls=(write_imagenet, 'slak_micro_toy_in1k'),
    coco=(write_coco, 'cascade_mask_rcnn_slak_micro_toy_coco'),
    voc=(write_voc07, 'faster_rcnn_slak_t_36e_voc07'))
TRAIN_JSON = 'annotations/instances_train2017.json'
SIZE = 64, 80


@lru_cache(maxsize=None)
def read(name: str) -> Config:
    return shrink(Config.fromfile(CONFIGS / f'{name}.py'))


def make(task: str, root: Path, num_train: int = 4, num_val: int = 2) -> Config:
    """Writes a data set into ``root``; returns the config of its task, small, on it."""
    write, name = TASKS[task]
    write(root, ToySpec(num_train=num_train, num_val=num_val, size=SIZE))
    cfg = set_data(deepcopy(read(name)), dict.fromkeys(LAYOUTS, root))
    if cfg.default_scope == 'mmpretrain':
        set_loader_defaults(cfg)
    return cfg


def lines(cfg: Config, level: str = 'error') -> list:
    """What tools/check.py says of a config, of one level."""
    return [finding.text for finding in check_config(cfg) if finding.level == level]


def edit(path: Path, change) -> None:
    """``change`` is given what a JSON file holds."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def repaint(path: Path, change, **kwargs) -> None:
    """Saves an image anew, of what ``change`` makes of its array."""
    image = Image.fromarray(change(np.array(Image.open(path))))
    image.save(path, **kwargs)
