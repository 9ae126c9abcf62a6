"""What the options of ``tools/train.py`` do to a config. Each function changes the config that it is given."""
import logging
import os
from typing import Optional

from mmengine.config import Config
from mmengine.logging import print_log

from ..errors import InputError


def set_amp(cfg: Config) -> None:
    """``--amp``: automatic mixed precision.

    Raises:
        InputError: The config has an optimizer wrapper of its own.
    """
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(f'--amp turns OptimWrapper into AmpOptimWrapper; the config has {kind}.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_auto_scale_lr(cfg: Config) -> None:
    """``--auto-scale-lr``: the learning rate in proportion to the images of an optimizer step.

    Raises:
        InputError: The config does not say for how many images its learning rate is.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise InputError('--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config.')
    cfg.auto_scale_lr.enable = True
    # mmengine compares it with the images of one iteration
    cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.get('accumulative_counts', 1)


def set_pretrained(cfg: Config, pretrained: Optional[str], stem: Optional[str] = None) -> None:
    """``--pretrained``, else the file that the config names, if it is there. ``--stem`` goes with it.

    Raises:
        InputError: ``--stem`` without a file.
    """
    if not pretrained:
        pretrained = cfg.get('pretrained')
        if not pretrained or cfg.resume or cfg.load_from or cfg.model.backbone.get('init_cfg'):
            if stem:
                raise InputError('--stem says what becomes of the first convolution of --pretrained CKPT: give that too.')
            return
        if not os.path.exists(pretrained):
            print_log(f'{pretrained} is not there: THE BACKBONE STARTS FROM RANDOM WEIGHTS, and the results of the paper are out '
                      'of reach. Put the file there or give it with --pretrained FILE_OR_URL; docs/model_zoo.md says where the '
                      'official files are.', logger='current', level=logging.WARNING)
            return
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=pretrained, **(dict(stem=stem) if stem else {}))
