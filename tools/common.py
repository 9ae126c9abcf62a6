"""What the tools share."""
import argparse
import difflib
import inspect
import os
import sys
import warnings
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import Optional

warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # mmengine's, at every start

import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.dataset import BaseDataset  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from slak_mm.checkpoints import SCHEME, CheckpointError  # noqa: E402
from slak_mm.checks import check_detection_data, check_images  # noqa: E402
from slak_mm.checks.images import empty  # noqa: E402
from slak_mm.errors import InputError, UserError  # noqa: E402
from slak_mm.models.wrappers import unwrap  # noqa: E402

# of a config: what the Runner takes, what it looks up besides, and what the tools do
SETTINGS = {*inspect.signature(Runner).parameters, 'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports',
            'find_unused_parameters', 'model_wrapper_cfg', 'pretrained', 'runner_type', 'strategy', 'sync_bn', 'tta_model',
            'tta_pipeline'}
TRACEBACK = 'SLAK_MM_TRACEBACK'


class CfgOptions(DictAction):
    """``DictAction`` that refuses what is not KEY=VALUE as argparse refuses anything else."""

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            parser.error(f'{option_string}: {" ".join(values)} is not KEY=VALUE ({error}), e.g. train_dataloader.batch_size=2')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options``; and, for a tool that has no such options, what :func:`load_config` reads besides."""
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE',
                        help='settings of the config to override, e.g. train_dataloader.batch_size=2 a.b="[(1,2),(3,4)]"')
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    add_cfg_options(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; defaults to work_dirs/<name of the config>')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """The config with ``--cfg-options``.

    Raises:
        InputError: It cannot be read or run, or a setting has a name that nothing reads.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with refusing(args.config, Exception):  # the file is Python: it can raise anything
        cfg = Config.fromfile(args.config)
        known = {*cfg, *SETTINGS}
        if args.cfg_options:
            cfg.merge_from_dict(args.cfg_options)
        import_module(cfg.get('default_scope') or 'mmengine')  # of a library that is not there, mmengine uses others
    check_names(cfg, known, args.config)
    cfg.launcher = args.launcher
    if args.work_dir or not cfg.get('work_dir'):
        cfg.work_dir = args.work_dir or str(Path('work_dirs') / Path(args.config).stem)
    if cfg.get('default_scope') == 'mmpretrain':
        set_loader_defaults(cfg)
    return cfg


def check_names(cfg: Config, known: set, path: str) -> None:
    """mmengine passes over a setting that it does not know. A config may have variables, but none a letter off a setting."""
    for name in cfg:
        close = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=.92 if name in known else 0.)
        if name not in SETTINGS and close:
            where = path if name in known else '--cfg-options'
            raise InputError(f'{where}: nothing reads {name!r}. Write {close[0]!r} if that is meant, or choose another name for a '
                             'variable.')


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
                with refusing(f'{split}_dataloader'):
                    check_detection_data(loader.dataset)


def num_classes(model: torch.nn.Module) -> Optional[int]:
    """That a classifier or a segmentor tells apart."""
    head = getattr(model, 'decode_head', None) or getattr(model, 'head', None)
    return getattr(head, 'num_classes', None)


REFUSED = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)


@contextmanager
def refusing(what: str, kinds=REFUSED):
    """Where a tool builds what a user described, these exceptions are about the description: they become ``InputError``."""
    try:
        yield
    except (UserError, OSError):
        raise
    except kinds as error:
        for frame, _ in walk_tb(error.__traceback__):
            if frame.f_code is BaseDataset._serialize_data.__code__ and not frame.f_locals['self'].data_list:
                raise empty(frame.f_locals['self']) from error
        text = error.args[0] if isinstance(error, KeyError) and error.args else error  # str(KeyError) is a repr
        text = ' '.join(str(text).split())[:600].rstrip('.')
        raise InputError(f'{what}: {type(error).__name__}: {text}. Mend it there or in --cfg-options; {TRACEBACK}=1 shows where it '
                         'was raised.') from error


class Setup(Hook):
    """A context in which a Runner is built and started. Until its loop begins, exceptions are refusals; afterwards, they are bugs.

    It also looks at the data, before weights are loaded.
    """

    priority = 'LOWEST'

    def __init__(self, config: str):
        self._what = config
        self._over = False

    def __enter__(self) -> 'Setup':
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None and not self._over:
            with refusing(self._what):
                raise error

    def before_run(self, runner) -> None:
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, 'dataloader'):  # it is built, because it will run
                check_images(loop.dataloader.dataset, num_classes(unwrap(runner.model)))

    def before_train(self, runner) -> None:
        self._over = True

    before_test = before_train

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuses to resume from weights alone."""
        meta, path = checkpoint.get('meta', {}), runner._load_from.replace(SCHEME, '')
        self._what = f'{path}, with {self._what}'
        if runner._resume and not all(isinstance(meta.get(key), int) and meta[key] >= 0 for key in ('epoch', 'iter')):
            raise CheckpointError(f'{path} holds weights, but not where a training stopped: it cannot be resumed. Start '
                                  'a training from it with --pretrained.')


def run(main) -> None:
    """Runs a tool; what it cannot use ends it with one line, not with a traceback (unless SLAK_MM_TRACEBACK is set)."""
    message = None
    try:
        main()
    except (UserError, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            message = f'{error.filename}: {error.strerror}. Name a file that can be read, or a folder that can be written to.'
    if message is not None:  # here, where the error and the model in its frames are gone (leave_process_group)
        sys.exit(f'error: {message}')
