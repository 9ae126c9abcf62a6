"""Reads a config of any OpenMMLab library, and refuses what mmengine would pass over in silence."""
import difflib
import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import Optional, Union

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import InputError
from ..registry import library_of
from .refusing import refusing
from .settings import check_settings

# of a config: what the Runner takes, what it looks up as well, and what the tools do
SETTINGS = {*inspect.signature(Runner).parameters, 'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports',
            'find_unused_parameters', 'model_wrapper_cfg', 'pretrained', 'runner_type', 'strategy', 'sync_bn', 'tta_model',
            'tta_pipeline'}


def load_config(path: Union[str, Path], options: Optional[dict] = None, work_dir: Optional[str] = None, launcher: str = 'none',
                local_rank: int = 0) -> Config:
    """Reads a config as the tools do.

    Args:
        path (str | Path): The file.
        options (dict, optional): Settings to override, as ``{'train_dataloader.batch_size': 2}``. Defaults to None.
        work_dir (str, optional): Folder for logs and checkpoints. Defaults to None: the config's, else ``work_dirs/<its name>``.
        launcher (str): What started this process: 'none', 'pytorch', 'slurm' or 'mpi'. Defaults to 'none'.
        local_rank (int): Of this process among those of its machine, for libraries that read it from the environment variable
            ``LOCAL_RANK``; one that is set already stays. Defaults to 0.

    Raises:
        InputError: It cannot be read or run, or a setting has a name that nothing reads.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    with refusing(str(path), Exception):  # the file is Python: it can raise anything
        cfg = Config.fromfile(path)
        known = {*cfg, *SETTINGS}
        if options:
            cfg.merge_from_dict(options)
        import_module(cfg.get('default_scope') or 'mmengine')  # of a library that is not there, mmengine uses others
        library = library_of(cfg)
    check_names(cfg, known, str(path))
    try:
        check_settings(cfg)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    cfg.launcher = launcher
    if work_dir or not cfg.get('work_dir'):
        cfg.work_dir = work_dir or str(Path('work_dirs') / Path(path).stem)
    if library == 'mmpretrain':
        set_loader_defaults(cfg)
    free_loaders_without_workers(cfg)
    return cfg


def check_names(cfg: Config, known: set, path: str) -> None:
    """mmengine passes over a setting that it does not know. A config may have variables, but none a letter off a setting.

    Args:
        cfg (Config): To be checked.
        known (set): Names that were in the file; the others come from ``--cfg-options``.
        path (str): The file, for the message.

    Raises:
        InputError: Nothing reads a setting, and its name is close to one that is read.
    """
    for name, value in cfg.items():
        if isinstance(value, type):  # imported by a new-style config
            continue
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


def free_loaders_without_workers(cfg: Config) -> None:
    """With ``num_workers=0`` torch refuses what is for workers alone, and a base config has set."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, dict) and loader.get('num_workers') == 0:
            for name in ('persistent_workers', 'prefetch_factor'):
                loader.pop(name, None)
