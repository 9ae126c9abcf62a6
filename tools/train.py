"""Trains a config of mmpretrain, mmdet or mmsegmentation: its default_scope, or its model, says which."""
from contextlib import nullcontext

import common
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from slak_mm.checkpoints import STEMS, source
from slak_mm.checks import Setup
from slak_mm.reliability.options import set_reliable_hooks, set_resume
from slak_mm.training.amp import prepare_cpu_amp
from slak_mm.training.console import quiet_console
from slak_mm.training.distributed import prepare_cpu_launch
from slak_mm.training.options import set_amp, set_auto_scale_lr, set_pretrained


def parse_args(argv=None):
    parser = common.build_parser(__doc__)
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CKPT',
                        help='resume from CKPT, or from the newest checkpoint of the work dir')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision: fp16 on a GPU, bf16 on a CPU')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale lr by the total batch size / auto_scale_lr.base_batch_size')
    start = parser.add_mutually_exclusive_group()
    start.add_argument('--pretrained', metavar='CKPT',
                       help='weights to start the backbone from: a path or URL, official or converted')
    start.add_argument('--from-scratch', action='store_true',
                       help='start from random weights, where the config names a file to start from')
    parser.add_argument('--stem', choices=STEMS,
                        help='what becomes of the first convolution of --pretrained if the backbone has other in_channels: all get '
                        "the sum of the file's channels (for grey images), or they are repeated, or the first ones are kept (for RGB "
                        'and more), or all are random')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg = common.load_config(args)
    prepare_cpu_launch(cfg)
    with Setup(args.config) as setup:
        if args.amp:
            set_amp(cfg)
        prepare_cpu_amp(cfg)
        if args.auto_scale_lr:
            set_auto_scale_lr(cfg)
        if args.resume:
            set_resume(cfg, args.resume)
        elif cfg.get('load_from'):
            cfg.load_from = source(cfg.load_from)
        set_pretrained(cfg, args.pretrained, args.from_scratch, args.stem)
        set_reliable_hooks(cfg)
        with quiet_console() if args.quiet else nullcontext():
            runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.register_hook(setup)
        runner.train()


if __name__ == '__main__':
    common.run(record(main))  # torchrun then tells which process failed, and why
