"""A config and a Runner made for testing a checkpoint. The functions that set something change the config that they are given."""
import os

from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook

from ..checkpoints import check_fits
from ..errors import InputError
from ..models.wrappers import unwrap
from .merge import merge_model

TTA_MODELS = dict(
    mmpretrain=dict(type='mmpretrain.AverageClsScoreTTA'),
    mmdet=dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    mmseg=dict(type='mmseg.SegTTAModel'))


class PrepareModelHook(Hook):
    """Refuses a checkpoint that leaves weights at random, and merges kernels once the weights are in.

    Args:
        deploy (bool): Whether to merge.
    """

    def __init__(self, deploy: bool):
        self.deploy = deploy

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        check_fits(checkpoint['state_dict'], unwrap(runner.model))

    def before_test(self, runner) -> None:
        if self.deploy:
            merge_model(runner.model)


def set_show_dir(cfg: Config, show_dir: str) -> None:
    """Has each prediction painted over its image, into a folder.

    Raises:
        InputError: The config has no visualization hook.
    """
    show_dir = os.path.abspath(show_dir)
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise InputError('--show-dir needs default_hooks.visualization in the config.')
    if hook.type.endswith('SegVisualizationHook'):
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = show_dir
    elif hook.type.endswith('DetVisualizationHook'):
        hook.update(draw=True, interval=1, test_out_dir=show_dir)
    else:
        hook.update(enable=True, interval=1, out_dir=show_dir)


def remove_ema(cfg: Config) -> None:
    """The weights in a checkpoint already are the average, and EMAHook can swap neither merged kernels nor a model wrapped for TTA."""
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks', []) if not hook.type.endswith('EMAHook')]


def set_tta(cfg: Config) -> None:
    """Test-time augmentation: the config's, or flipping."""
    dataset = cfg.test_dataloader.dataset
    if 'tta_pipeline' not in cfg:
        *load, pack = dataset.pipeline
        if 'meta_keys' in pack:
            pack = dict(pack, meta_keys=(*pack['meta_keys'], 'flip', 'flip_direction'))
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1., 0.)]
        cfg.tta_pipeline = [*load, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.get('tta_model', TTA_MODELS[cfg.default_scope]), module=cfg.model)
