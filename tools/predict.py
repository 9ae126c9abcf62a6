"""Predicts on images with OpenMMLab's own inferencers, and draws what was predicted.

The task is the config's: class and score of a classifier, segmentation map, or boxes and masks.
"""
import argparse
from pathlib import Path

import common

from slak_mm.deploy.predict import build_inferencer, find_images, image_loader, predict


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', type=Path, help='image, or folder of images')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='path or URL; or an exported file, .onnx or .xml')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder for the pictures')
    parser.add_argument('--device', help='defaults to a GPU if there is one')
    parser.add_argument('--score-thr', type=float, default=.3, help='least score of a box that is drawn')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision: fp16 on a GPU, bf16 on a CPU and in an .xml')
    common.add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg = common.load_config(args)
    load = image_loader(cfg)
    images = find_images(args.images, load)
    inferencer = build_inferencer(cfg, args.checkpoint, args.device, args.amp)
    for image, result in zip(images, predict(inferencer, cfg, images, str(args.out), load, args.score_thr)):
        print(f'{image}: class {result.get("pred_class", result["pred_label"])}, score {result["pred_score"]:.3f}')
    print(f'Pictures: {args.out}')


if __name__ == '__main__':
    common.run(main)
