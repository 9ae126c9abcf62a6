"""Tests a checkpoint on a config of mmpretrain, mmdet or mmsegmentation: its default_scope says which."""
import os

import common
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from slak_mm.checkpoints import check_fits, named
from slak_mm.errors import InputError
from slak_mm.models import SLaK
from slak_mm.models.wrappers import unwrap
from slak_mm.training.distributed import prepare_cpu_launch

TTA_MODELS = dict(
    mmpretrain=dict(type='mmpretrain.AverageClsScoreTTA'),
    mmdet=dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    mmseg=dict(type='mmseg.SegTTAModel'))


def parse_args():
    parser = common.build_parser(__doc__)
    parser.add_argument('checkpoint', help='path or URL')
    parser.add_argument('--out', metavar='FILE.pkl', help='also write the predictions to this file')
    parser.add_argument('--show-dir', help='also paint the predictions over the images, into this folder')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation: the config's, or flipping")
    parser.add_argument('--deploy', action='store_true', help='merge the large kernels first (same results, faster)')
    return parser.parse_args()


class PrepareModelHook(Hook):
    """Refuses a checkpoint that leaves weights at random, and merges kernels once the weights are in."""

    def __init__(self, deploy: bool):
        self.deploy = deploy

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        check_fits(checkpoint['state_dict'], unwrap(runner.model))

    def before_test(self, runner) -> None:
        if self.deploy:
            for module in runner.model.modules():
                if isinstance(module, SLaK):
                    module.switch_to_deploy()


def set_show_dir(cfg: Config, show_dir: str) -> None:
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
    dataset = cfg.test_dataloader.dataset
    if 'tta_pipeline' not in cfg:
        *load, pack = dataset.pipeline
        if 'meta_keys' in pack:
            pack = dict(pack, meta_keys=(*pack['meta_keys'], 'flip', 'flip_direction'))
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1., 0.)]
        cfg.tta_pipeline = [*load, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.get('tta_model', TTA_MODELS[cfg.default_scope]), module=cfg.model)


def main():
    args = parse_args()
    cfg = common.load_config(args)
    prepare_cpu_launch(cfg)
    common.check_data(cfg, 'test')
    cfg.load_from = common.source(args.checkpoint)
    cfg.resume = False
    with named(args.checkpoint), common.Setup(args.config) as setup:
        if args.show_dir:
            set_show_dir(cfg, args.show_dir)
        if args.tta:
            set_tta(cfg)
        remove_ema(cfg)
        if cfg.get('strategy', {}).get('type') == 'FSDPStrategy':
            cfg.pop('runner_type', None)  # a checkpoint is tested in one piece
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.register_hook(PrepareModelHook(args.deploy))
        runner.register_hook(setup)
        if args.out:
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        runner.test()


if __name__ == '__main__':
    common.run(record(main))  # torchrun then tells which process failed, and why
