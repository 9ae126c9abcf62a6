"""Trains a config of mmpretrain, mmdet or mmsegmentation: its default_scope says which."""
import logging
import os

import common
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from slak_mm.errors import InputError
from slak_mm.reliability.checkpoint_hook import newest_checkpoint
from slak_mm.training.distributed import prepare_cpu_launch

RELIABLE_HOOKS = dict(
    checkpoint=dict(type='slak_mm.CheckpointHook', interval=1),
    exact_resume=dict(type='slak_mm.ExactResumeHook'),
    check_loss=dict(type='slak_mm.CheckInvalidLossHook'))


def parse_args():
    parser = common.build_parser(__doc__)
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CKPT',
                        help='resume from CKPT, or from the newest checkpoint of the work dir')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision (needs an accelerator)')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale lr by the total batch size / auto_scale_lr.base_batch_size')
    parser.add_argument('--pretrained', metavar='CKPT',
                        help='weights to start the backbone from: a path or URL, official or converted')
    return parser.parse_args()


def set_amp(cfg: Config) -> None:
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(f'--amp turns OptimWrapper into AmpOptimWrapper; the config has {kind}.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_auto_scale_lr(cfg: Config) -> None:
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise InputError('--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config.')
    cfg.auto_scale_lr.enable = True
    # mmengine compares it with the images of one iteration
    cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.get('accumulative_counts', 1)


def set_resume(cfg: Config, resume: str) -> None:
    checkpoint = newest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    cfg.resume = checkpoint is not None
    cfg.load_from = checkpoint and common.source(checkpoint)


def set_reliable_hooks(cfg: Config) -> None:
    """Adds the hooks with which a run can be left alone (docs/reliability.md). Those that the config sets to None stay out."""
    hooks = cfg.get('default_hooks', {})
    cfg.default_hooks = {**RELIABLE_HOOKS, **hooks}
    for name in ('exact_resume', 'check_loss'):
        if cfg.default_hooks[name] is None:
            cfg.default_hooks.pop(name)
    checkpoint = cfg.default_hooks.checkpoint
    if checkpoint and checkpoint.get('type') in ('CheckpointHook', 'mmengine.CheckpointHook'):
        checkpoint.type = RELIABLE_HOOKS['checkpoint']['type']


def set_pretrained(cfg: Config, pretrained: str) -> None:
    """``--pretrained``, else the file that the config names, if it is there."""
    if not pretrained:
        pretrained = cfg.get('pretrained')
        if not pretrained or cfg.resume or cfg.load_from or cfg.model.backbone.get('init_cfg'):
            return
        if not os.path.exists(pretrained):
            print_log(f'{pretrained} is not there: THE BACKBONE STARTS FROM RANDOM WEIGHTS, and the results of the paper are out '
                      'of reach. Put the file there or give it with --pretrained FILE_OR_URL; docs/model_zoo.md says where the '
                      'official files are.', logger='current', level=logging.WARNING)
            return
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=pretrained)


def main():
    args = parse_args()
    cfg = common.load_config(args)
    prepare_cpu_launch(cfg)
    common.check_data(cfg, 'train', 'val')
    with common.Setup(args.config) as setup:
        if args.amp:
            set_amp(cfg)
        if args.auto_scale_lr:
            set_auto_scale_lr(cfg)
        if args.resume:
            set_resume(cfg, args.resume)
        elif cfg.get('load_from'):
            cfg.load_from = common.source(cfg.load_from)
        set_pretrained(cfg, args.pretrained)
        set_reliable_hooks(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.register_hook(setup)
        runner.train()


if __name__ == '__main__':
    common.run(record(main))  # torchrun then tells which process failed, and why
