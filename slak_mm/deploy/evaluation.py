"""A config and a Runner made for testing a checkpoint. The functions that set something change the config that they are given."""
import os
from copy import copy
from functools import partial
from typing import Any, Optional
from unittest import mock

import mmcv
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook, Hook

from ..checkpoints import check_fits
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


class ShowAsReadHook(Hook):
    """Has the libraries' visualization hooks read a photo in the orientation in which the test pipeline reads it.

    They call ``mmcv.imfrombytes`` without saying how. Where the pipeline ignores EXIF's orientation, predictions lie on the pixels as
    they are stored, and the hooks would paint them over the turned photo, or fail.
    """

    def before_test(self, runner) -> None:
        dataset = runner.test_dataloader.dataset
        while not hasattr(dataset, 'pipeline') and hasattr(dataset, 'dataset'):
            dataset = dataset.dataset
        steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
        flags = [flag for flag in (getattr(step, 'color_type', '') for step in steps) if str(flag).endswith('ignore_orientation')]
        self._patch = mock.patch.object(mmcv, 'imfrombytes', partial(mmcv.imfrombytes, flag=flags[0])) if flags else None
        if self._patch:
            self._patch.start()

    def after_test(self, runner) -> None:
        if self._patch:
            self._patch.stop()


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
