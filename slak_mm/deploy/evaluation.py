"""A config and a Runner made for testing a checkpoint. The functions that set something change the config that they are given."""
import os
import os.path as osp
import sys
from collections import Counter
from contextlib import ExitStack
from copy import copy
from functools import partial
from types import SimpleNamespace
from typing import Any, Dict, Optional, Sequence
from unittest import mock

import mmcv
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook, Hook

from ..checkpoints import check_fits
from ..checks.split import unwrap_dataset
from ..errors import InputError
from ..models.precision import autocast_forward
from ..models.wrappers import unwrap
from ..registry import HOOKS, class_of, is_a, library_of
from .merge import merge_model

TTA_MODELS = dict(
    mmpretrain=dict(type='mmpretrain.AverageClsScoreTTA'),
    # registered in mmengine's registry, not in mmdet's
    mmdet=dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    mmseg=dict(type='mmseg.SegTTAModel'))
SHOWING = ('SegVisualizationHook', 'DetVisualizationHook', 'VisualizationHook')
FLIPS = dict(mmdet='mmdet.RandomFlip', mmseg='mmseg.RandomFlip')  # mmpretrain's is mmcv's


class PrepareModelHook(Hook):
    """Refuses a checkpoint that leaves weights at random, and merges kernels once the weights are in.

    Args:
        deploy (bool): Whether to merge.
        amp (bool): Whether to compute under autocast, see :func:`~slak_mm.models.precision.autocast_forward`; the config's test loop
            may ask for it with ``fp16=True`` as well. Defaults to False.
    """

    def __init__(self, deploy: bool, amp: bool = False):
        self.deploy, self.amp = deploy, amp

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        check_fits(checkpoint['state_dict'], unwrap(runner.model))

    def before_test(self, runner) -> None:
        if self.deploy:
            merge_model(runner.model)
        if self.amp or getattr(runner.test_loop, 'fp16', False):
            autocast_forward(unwrap(runner.model))


class ShowDirHook(Hook):
    """What the libraries' visualization hooks need to paint the pictures of ``--show-dir``, while a test runs.

    They call ``mmcv.imfrombytes`` without saying how. Where the pipeline ignores EXIF's orientation, predictions lie on the pixels as
    they are stored, and the hooks would paint them over the turned photo, or fail. And they name a picture by its file name alone,
    so that of images of one name in several folders only the last picture would be left: see :func:`shown_names`.
    """

    def before_test(self, runner) -> None:
        datasets = [each for each in unwrap_dataset(runner.test_dataloader.dataset) if hasattr(each, 'get_data_info')]
        steps = [step for dataset in datasets for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', ())]
        flags = [step.color_type for step in steps if str(getattr(step, 'color_type', '')).endswith('ignore_orientation')]
        infos = [dataset.get_data_info(i) for dataset in datasets for i in range(len(dataset))]
        names = shown_names([str(info['img_path']) for info in infos if isinstance(info, dict) and 'img_path' in info])
        own = SimpleNamespace(**{**vars(osp), 'basename': lambda path: names.get(str(path)) or osp.basename(path)})
        self._patches = ExitStack()
        if flags:
            self._patches.enter_context(mock.patch.object(mmcv, 'imfrombytes', partial(mmcv.imfrombytes, flag=flags[0])))
        for module in {sys.modules[kind.__module__] for hook in runner.hooks for kind in type(hook).__mro__
                       if kind.__name__ in SHOWING}:
            self._patches.enter_context(mock.patch.object(module, 'osp', own))

    def after_test(self, runner) -> None:
        self._patches.close()


def shown_names(paths: Sequence[str]) -> Dict[str, str]:
    """Names for pictures of images: the file names; of those that several have, with the folders in which their paths differ.

    Args:
        paths (Sequence[str]): Of the images.

    Returns:
        dict[str, str]: By path, as ``{'data/a/0.jpg': 'a_0.jpg', 'data/b/0.jpg': 'b_0.jpg', 'data/b/1.jpg': '1.jpg'}``.
    """
    counts = Counter(osp.basename(path) for path in set(paths))
    several = {path: path.replace(os.sep, '/') for path in paths if counts[osp.basename(path)] > 1}
    common = osp.commonprefix([*several.values()]).rpartition('/')[0]
    return {path: several[path][len(common):].strip('/').replace('/', '_') if path in several else osp.basename(path)
            for path in paths}


def set_show_dir(cfg: Config, show_dir: str) -> None:
    """Has each prediction painted over its image, into a folder.

    Raises:
        InputError: The config has no visualization hook, or one of which nothing is known.
    """
    show_dir = os.path.abspath(show_dir)
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise InputError('--show-dir needs default_hooks.visualization in the config.')
    scope = cfg.get('default_scope')
    if is_a(hook, 'SegVisualizationHook', HOOKS, scope):
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = show_dir
    elif is_a(hook, 'DetVisualizationHook', HOOKS, scope):
        hook.update(draw=True, interval=1, test_out_dir=show_dir)
    elif is_a(hook, 'VisualizationHook', HOOKS, scope):
        hook.update(enable=True, interval=1, out_dir=show_dir)
    else:
        raise InputError(f'--show-dir knows SegVisualizationHook, DetVisualizationHook and VisualizationHook; the config has '
                         f'{hook.get("type")} as default_hooks.visualization.')


def remove_ema(cfg: Config) -> None:
    """The weights in a checkpoint already are the average, and EMAHook can swap neither merged kernels nor a model wrapped for TTA."""
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if not _averages(hook, cfg.get('default_scope'))]


def _averages(hook: Any, scope: Optional[str]) -> bool:
    if isinstance(hook, Hook):
        return isinstance(hook, EMAHook)
    return issubclass(class_of(hook, HOOKS, scope) or Hook, EMAHook)


def set_tta(cfg: Config) -> None:
    """Test-time augmentation: the config's, or flipping.

    Raises:
        InputError: The config has no ``tta_model``, and is of no library that would have one.
    """
    library = library_of(cfg)
    if 'tta_model' not in cfg and library not in TTA_MODELS:
        raise InputError(f'--tta needs tta_model in the config: its default_scope is {library!r}, none of {", ".join(TTA_MODELS)}.')
    dataset = cfg.test_dataloader.dataset
    if 'tta_pipeline' not in cfg:
        *load, pack = dataset.pipeline
        if 'meta_keys' in pack:
            pack = copy(pack)  # not dict(pack): a config cannot be written with classes in it, only with what becomes them
            pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
        flips = [dict(type=FLIPS.get(str(library), 'RandomFlip'), prob=prob) for prob in (1., 0.)]
        cfg.tta_pipeline = [*load, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline
    model = copy(cfg.tta_model) if 'tta_model' in cfg else ConfigDict(TTA_MODELS[str(library)])
    model['module'] = cfg.model
    cfg.model = model
