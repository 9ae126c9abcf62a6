"""Predicts on images with OpenMMLab's own inferencers, and draws what was predicted.

The task is the config's: class and score of a classifier, segmentation map, or boxes and masks.
"""
import argparse
from pathlib import Path
from typing import Optional

import common
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.utils import scandir

from slak_mm.checkpoints import check_fits, named
from slak_mm.checks import DataError, read_image


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', type=Path, help='image, or folder of images')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='path or URL')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder for the pictures')
    parser.add_argument('--device', help='defaults to a GPU if there is one')
    parser.add_argument('--score-thr', type=float, default=.3, help='least score of a box that is drawn')
    common.add_cfg_options(parser)
    return parser.parse_args()


def find_images(path: Path) -> list:
    """The image, or those in the folder."""
    if path.is_file():
        read_image(str(path))
        return [str(path)]
    images = sorted(scandir(path, ('.jpg', '.jpeg', '.png', '.bmp'), case_sensitive=False)) if path.is_dir() else []
    if not images:
        raise DataError(f'{path} is no image and no folder with images (jpg, png, bmp).')
    for image in images:
        read_image(str(path / image))
    return [str(path / image) for image in images]


def build(cfg: Config, weights: str, device: Optional[str]):
    """The inferencer of the config's library."""
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.apis import ImageClassificationInferencer
        return ImageClassificationInferencer(cfg, pretrained=weights, device=device)
    if cfg.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer
        return MMSegInferencer(cfg, weights=weights, device=device)
    from mmdet.apis import DetInferencer
    return DetInferencer(cfg, weights=weights, device=device)


def main():
    args = parse_args()
    cfg = common.load_config(args)
    images, weights, out = find_images(args.images), common.source(args.checkpoint), str(args.out)
    init_default_scope(cfg.default_scope)
    with named(args.checkpoint), common.refusing(args.config):
        inferencer = build(cfg, weights, args.device)
        check_fits(CheckpointLoader.load_checkpoint(weights, 'cpu')['state_dict'], inferencer.model)
    if cfg.default_scope == 'mmpretrain':
        for image, result in zip(images, inferencer(images, show_dir=out)):
            print(f'{image}: class {result.get("pred_class", result["pred_label"])}, score {result["pred_score"]:.3f}')
    elif cfg.default_scope == 'mmseg':
        inferencer(images, out_dir=out)
    else:
        inferencer(images, out_dir=out, pred_score_thr=args.score_thr)
    print(f'Pictures: {out}')


if __name__ == '__main__':
    common.run(main)
