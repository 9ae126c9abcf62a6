"""Exports a whole model, ready to predict, to one file that runs without torch: ONNX, or OpenVINO's format.

The file is written once it predicts what torch does. It says itself what it is of; tools/test.py and tools/predict.py take it in the
place of a checkpoint.
"""
import argparse
from pathlib import Path

import common

from slak_mm.checks import refusing
from slak_mm.deploy.runtime import needing


def parse_args(argv=None, **defaults):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file of a classifier, segmentor or detector; with --backbone, of any model')
    parser.add_argument('checkpoint', help="path or URL; 'none' for random weights")
    parser.add_argument('out', type=Path, metavar='OUT',
                        help='file to write: OUT.onnx; OUT.xml for OpenVINO; OUT.pt2 for AOTInductor; OUT.pte for ExecuTorch')
    size = parser.add_mutually_exclusive_group()
    size.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                      help="of the images; defaults to the size that the config's test pipeline makes all images, else it is free")
    size.add_argument('--free-size', action='store_true', help='images of any size')
    parser.add_argument('--preprocess', action='store_true', help='normalize inside: images are pixels as they were read, of bytes')
    parser.add_argument('--logits', action='store_true', help='of a classifier, logits in place of scores')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone: outputs are its feature maps')
    parser.add_argument('--pad', type=int, default=16,
                        help='the maps in the backbone get a multiple of this many channels; defaults to 16, which onnxruntime wants')
    parser.add_argument('--opset', type=int, default=20, help='of ONNX, from 18; defaults to 20, the first that has GELU')
    parser.add_argument('--tolerance', type=float, default=1e-4,
                        help='largest difference to torch, relative to the largest score if that is above 1; defaults to 1e-4')
    common.add_cfg_options(parser)
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    if args.shape and min(args.shape) < 32:
        parser.error('--shape: the backbone needs images of at least 32 32')
    if args.opset < 18:
        parser.error("--opset: torch's exporter starts at 18")
    if args.pad < 1:
        parser.error('--pad: a number of channels, 1 for none')
    return args


def main(argv=None, **defaults):
    args = parse_args(argv, **defaults)
    cfg = common.load_config(args)
    with needing():
        from slak_mm.deploy import export, write
    write.check_target(args.out)
    size = export.choose_size(cfg, args.shape, args.free_size)
    options = export.Options(size, args.preprocess, args.backbone, args.logits, args.pad, args.opset)
    with refusing(args.config), needing():
        receipt = write.write_exported(cfg, args.checkpoint, args.out, options, args.tolerance)
    said = receipt.description['input']
    shape = [said['batch'] or 'batch', said['channels'], *(said['size'] or ('height', 'width'))]
    print(f'{args.out}: {receipt.megabytes:.1f} MB, images ({", ".join(map(str, shape))}) of {said["dtype"]} to '
          f'{", ".join(receipt.description["outputs"])}.')
    for runtime, agreement in receipt.agreements:
        print(f'{runtime} and torch: {agreement}')
    if receipt.description['pipeline'] is None:
        print("The file does not say how to resize images: the config's test pipeline has steps of other kinds.")


if __name__ == '__main__':
    common.run(main)
