"""Tests a checkpoint, or a file of tools/export.py, on a config of mmpretrain, mmdet or mmsegmentation.

The config's default_scope, or its model, says of which.
"""
from contextlib import nullcontext

import common
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS, STRATEGIES
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from slak_mm.checkpoints import named, source
from slak_mm.checks import Setup, refusing
from slak_mm.deploy.description import is_exported
from slak_mm.deploy.evaluation import PrepareModelHook, ShowDirHook, remove_ema, set_show_dir, set_tta
from slak_mm.deploy.exported import exported_cfg
from slak_mm.errors import InputError
from slak_mm.registry import enter_scope, is_a
from slak_mm.training.console import quiet_console
from slak_mm.training.distributed import prepare_cpu_launch


def parse_args(argv=None):
    parser = common.build_parser(__doc__)
    parser.add_argument('checkpoint', help='path or URL; or an exported file, .onnx or .xml')
    parser.add_argument('--out', metavar='FILE.pkl', help='also write the predictions to this file')
    parser.add_argument('--show-dir', help='also paint the predictions over the images, into this folder')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation: the config's, or flipping")
    parser.add_argument('--amp', action='store_true',
                        help='automatic mixed precision: fp16 on a GPU, bf16 on a CPU; of an .xml, bf16 in OpenVINO')
    parser.add_argument('--deploy', action='store_true', help='merge the large kernels first (same results, faster)')
    return parser.parse_args(argv)


def use_exported(cfg, args):
    """Puts an exported file into the place of the config's model."""
    for option in ('tta', 'deploy'):
        if getattr(args, option):
            raise InputError(f'--{option} is for checkpoints: {args.checkpoint} is exported. Leave it out.')
    with refusing(args.config):
        enter_scope(cfg)
        cfg.model = exported_cfg(cfg, args.checkpoint, args.amp)


def main(argv=None):
    args = parse_args(argv)
    cfg = common.load_config(args)
    prepare_cpu_launch(cfg)
    exported = is_exported(args.checkpoint)
    if exported:
        use_exported(cfg, args)
    cfg.load_from = None if exported else source(args.checkpoint)
    cfg.resume = False
    with named(args.checkpoint), Setup(args.config) as setup:
        if args.show_dir:
            set_show_dir(cfg, args.show_dir)
        if args.tta:
            set_tta(cfg)
        remove_ema(cfg)
        if is_a(cfg.get('strategy'), 'FSDPStrategy', STRATEGIES, cfg.get('default_scope')):
            cfg.pop('runner_type', None)  # a checkpoint is tested in one piece
        with quiet_console() if args.quiet else nullcontext():
            runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        if not exported:
            runner.register_hook(PrepareModelHook(args.deploy, args.amp))
        runner.register_hook(setup)
        if args.show_dir:
            runner.register_hook(ShowDirHook())
        if args.out:
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        runner.test()


if __name__ == '__main__':
    common.run(record(main))  # torchrun then tells which process failed, and why
