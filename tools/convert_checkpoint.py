"""Converts an official SLaK file (ImageNet, or mmcv-1 downstream) to one that any OpenMMLab 2.x tool loads, or says what a file is."""
import argparse
from pathlib import Path

import common
import torch

from slak_mm import __version__
from slak_mm.checkpoints.convert import convert, inspect, name_output_norm, share_of_zeros
from slak_mm.checkpoints.official import describe_file, lines
from slak_mm.checkpoints.packed import pack_weights
from slak_mm.checkpoints.safetensors import SUFFIX, write_safetensors
from slak_mm.deploy import compact
from slak_mm.deploy.compaction import write_config
from slak_mm.deploy.merge import change_state_dict, merge_model


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='path or URL of the file to convert')
    parser.add_argument('target', nargs='?', help='file to write; safetensors, if that is how its name ends')
    parser.add_argument('--describe', action='store_true',
                        help='write nothing: say what SOURCE is, which configs fit it, what in it is zero, and its SHA-256')
    parser.add_argument('--key', help="entry that holds the weights, e.g. model_ema; defaults to 'state_dict', else 'model'")
    parser.add_argument('--prefix', help="what stands before the backbone's keys, if the file holds several backbones")
    parser.add_argument('--deploy', action='store_true', help='merge the large kernels, for configs/deploy')
    parser.add_argument('--compact', action='store_true',
                        help='cut out the hidden units that a sparse training has removed; TARGET gets a config of its own beside it')
    parser.add_argument('--config', help='with --compact: config of SOURCE, on which that of TARGET is based')
    parser.add_argument('--packed', action='store_true',
                        help="leave out the zeros: at 40%% of them .63 of the size; read by this package's tools and backbone alone")
    args = parser.parse_args(argv)
    if args.describe == bool(args.target):
        parser.error('give TARGET, the file to write, or --describe, which writes none')
    if args.packed and str(args.target).endswith(SUFFIX):
        parser.error('--packed is for files of PyTorch, not for safetensors')
    if args.config and not args.compact:
        parser.error('--config is for --compact')
    return args


def main(argv=None):
    args = parse_args(argv)
    if args.describe:
        print('\n'.join(lines(args.source, describe_file(args.source, args.key))))
        return
    state_dict, meta = convert(args.source, args.key, args.prefix)
    if args.compact:
        state_dict = change_state_dict(state_dict, compact)
    if args.deploy:
        state_dict = change_state_dict(state_dict, merge_model)
    backbone, config = inspect(state_dict)
    state_dict = name_output_norm(state_dict)
    target = Path(args.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if args.compact:
        print(f'{write_config(target, config, args.config)}: the config of {target}')
    checkpoint = dict(meta=dict(meta, slak_mm_version=__version__), state_dict=state_dict)
    if target.suffix == SUFFIX:
        write_safetensors(str(target), **checkpoint)
    else:
        torch.save(pack_weights(checkpoint) if args.packed else checkpoint, target)

    print(f'{target}: {len(state_dict)} tensors; {share_of_zeros(backbone):.1%} of the backbone\'s weights are zero. It fits\n')
    print(f"    backbone=dict(type='slak_mm.SLaK', {', '.join(f'{name}={value!r}' for name, value in config.items())})\n")


if __name__ == '__main__':
    common.run(main)
