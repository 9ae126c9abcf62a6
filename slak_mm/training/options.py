"""What the options of ``tools/train.py`` do to a config. Each function changes the config that it is given."""
import logging
import os
from typing import Optional

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from ..errors import InputError
from ..models.backbones import backbone_cfg, backbone_cfgs
from ..registry import class_of


def set_amp(cfg: Config) -> None:
    """``--amp``: automatic mixed precision, by ``AmpOptimWrapper``; on a CPU ``prepare_cpu_amp`` puts another in its place.

    Raises:
        InputError: The config has an optimizer wrapper of its own.
    """
    kind = class_of(cfg.optim_wrapper, OPTIM_WRAPPERS, cfg.get('default_scope')) if 'type' in cfg.optim_wrapper else OptimWrapper
    if kind not in (OptimWrapper, AmpOptimWrapper):
        raise InputError(f'--amp turns OptimWrapper into AmpOptimWrapper; the config has {cfg.optim_wrapper.type}.')
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


def set_pretrained(cfg: Config, pretrained: Optional[str], from_scratch: bool = False, stem: Optional[str] = None) -> None:
    """``--pretrained``, else the file that the config names as ``pretrained``; with ``--from-scratch`` neither.

    Raises:
        InputError: The file that the config names is not there, it is not clear which backbone is to be loaded, or ``--stem`` (what
            becomes of the file's first convolution) has no file that it belongs to.
    """
    if not pretrained:
        pretrained = cfg.get('pretrained')
        idle = not pretrained or cfg.get('resume') or cfg.get('load_from')
        if stem and (idle or from_scratch):
            raise InputError('--stem says what becomes of the first convolution of --pretrained CKPT: give that too.')
        if idle:
            return
        if from_scratch:
            print_log(f'--from-scratch: {pretrained} is not loaded. THE BACKBONE STARTS FROM RANDOM WEIGHTS, and the results of the '
                      'paper are out of reach.', logger='current', level=logging.WARNING)
            return
        if any(backbone.get('init_cfg') for backbone in backbone_cfgs(cfg).values()):
            return
        if '://' not in pretrained and not os.path.exists(os.path.expanduser(pretrained)):
            raise InputError(f'{pretrained} is not there, from which the config starts its backbone. Put it there, or give it with '
                             '--pretrained FILE_OR_URL (docs/model_zoo.md says where the official files are); --from-scratch trains '
                             'from random weights, with which the results of the paper are out of reach.')
    backbone_cfg(cfg).init_cfg = dict(type='Pretrained', checkpoint=pretrained, **(dict(stem=stem) if stem else {}))
