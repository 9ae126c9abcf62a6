"""Exports a model to ONNX: kernels merged, any batch size, images of one size. It is written once onnxruntime agrees with torch."""
import argparse
from pathlib import Path

import common

from slak_mm.checks import refusing
from slak_mm.errors import UserError
from slak_mm.models.backbones import backbone_cfg


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a classifier or a segmentor; with --backbone, of any model')
    parser.add_argument('checkpoint', help="path or URL; 'none' for random weights")
    parser.add_argument('out', type=Path, metavar='OUT.onnx', help='file to write')
    parser.add_argument('--shape', type=int, nargs=2, default=(224, 224), metavar=('H', 'W'), help='of the images; 224 224 by default')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone: outputs are its feature maps')
    parser.add_argument('--opset', type=int, default=20, help='of ONNX, from 18; defaults to 20, the first that has GELU')
    parser.add_argument('--tolerance', type=float, default=1e-4, help='largest difference to torch, absolute; defaults to 1e-4')
    common.add_cfg_options(parser)
    args = parser.parse_args(argv)
    if min(args.shape) < 32:
        parser.error('--shape: the backbone needs images of at least 32 32')
    if args.opset < 18:
        parser.error("--opset: torch's exporter starts at 18")
    return args


def main(argv=None):
    args = parse_args(argv)
    try:
        from slak_mm.deploy import export
    except ImportError as missing:
        raise UserError(f'{missing.name} is not installed: pip install onnx onnxruntime onnxscript') from missing
    cfg = common.load_config(args)
    export.check_exportable(cfg, args.backbone)
    with refusing(args.config):
        model = export.build(cfg, args.checkpoint, args.backbone)
    names = [f'stage{i}' for i in model.out_indices] if args.backbone else ['logits']
    shape = (backbone_cfg(cfg).get('in_channels', 3), *args.shape)
    content, difference = export.export_checked(model, shape, names, args.opset, args.tolerance)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(content)
    print(f'{args.out}: {len(content) / 1e6:.1f} MB, images (batch, {", ".join(map(str, shape))}) to {", ".join(names)}.\n'
          f'Largest difference between onnxruntime and torch: {difference:.1e}')


if __name__ == '__main__':
    common.run(main)
