"""What train.py and test.py share."""
import argparse
import os
import sys
import warnings
from pathlib import Path

warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # mmengine's, at every start

import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402

from slak_mm.checkpoint import SCHEME, CheckpointError  # noqa: E402
from slak_mm.data.checks import DataError, check_detection_data  # noqa: E402


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; defaults to work_dirs/<name of the config>')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings of the config to override, e.g. train_dataloader.batch_size=2 a.b="[(1,2),(3,4)]"')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir or not cfg.get('work_dir'):
        cfg.work_dir = args.work_dir or str(Path('work_dirs') / Path(args.config).stem)
    if cfg.get('default_scope') == 'mmpretrain':
        set_loader_defaults(cfg)
    return cfg


def set_loader_defaults(cfg: Config) -> None:
    """What mmpretrain's own tools add to its configs."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)


def source(checkpoint: str) -> str:
    """``load_from`` for a path or http(s) URL, so that it is read safely and in any format; other schemes are mmengine's."""
    return checkpoint if '://' in checkpoint and not checkpoint.startswith('http') else SCHEME + checkpoint


def check_data(cfg: Config, *splits: str) -> None:
    """Raises ``DataError`` for annotations that mmdet would pass over in silence."""
    if cfg.get('default_scope') == 'mmdet':
        for split in splits:
            loader = cfg.get(f'{split}_dataloader')
            if loader:
                check_detection_data(loader.dataset)


def run(main) -> None:
    """Runs a tool; a file that cannot be loaded ends it with one line, not with a traceback."""
    try:
        main()
    except (CheckpointError, DataError) as error:
        sys.exit(f'error: {error}')
