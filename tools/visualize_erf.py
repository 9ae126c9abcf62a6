"""Draws effective receptive fields beside each other, and measures them (the paper's figure 3 and table 10).

Without a config it compares ConvNeXt-T, the same with 31x31 kernels as RepLKNet trains them, and SLaK-T, at random weights. With
configs it draws their backbones, of any OpenMMLab library, at random weights or from checkpoints. Random weights have a layer scale
of 1, if the backbone is a SLaK or a ConvNeXt: at the usual 1e-6 no block would contribute anything.
"""
import argparse
import json
import logging
from pathlib import Path
from typing import Callable, Dict, Iterator, List

import common
import matplotlib
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from PIL import Image
from rich.progress import track
from torch import Tensor, nn

from slak_mm.analysis.erf import area_ratio, area_ratios, last_map, mean_scores, rescaled
from slak_mm.checkpoints import CheckpointError
from slak_mm.models import SLaK

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import LogNorm  # noqa: E402

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
MEAN, STD = (.485, .456, .406), (.229, .224, .225)
DECADES = 3


def convnext() -> nn.Module:
    from mmpretrain.models import ConvNeXt
    return ConvNeXt('tiny', layer_scale_init_value=1.)


def slak(**options) -> nn.Module:
    return SLaK('tiny', norm_cfg=dict(type='BN'), layer_scale_init_value=1., **options)


COMPARISON = {
    'ConvNeXt-T, 7-7-7-7': convnext,
    'ConvNeXt-T (RepLKNet), 31-29-27-13': lambda: slak(large_kernel='reparam', kernel_sizes=(31, 29, 27, 13), width_factor=1.),
    'SLaK-T, 51-49-47-13': slak,
}


def randomize(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    backbone = build()
    logging.disable(logging.INFO)  # mmengine tells of each parameter how it is initialised
    backbone.init_weights()
    logging.disable(logging.NOTSET)
    return backbone


def from_config(path: str, seed: int) -> nn.Module:
    """The backbone of a config, at random weights."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    options = dict(cfg.model.backbone, init_cfg=None)
    if options['type'].rpartition('.')[2] in ('SLaK', 'ConvNeXt'):
        options['layer_scale_init_value'] = 1.
    return revert_sync_batchnorm(randomize(lambda: MODELS.build(options), seed))


def from_checkpoint(path: str, checkpoint: str) -> nn.Module:
    """The backbone of a config, with the weights of a checkpoint of the whole model, mmengine's or official."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))  # as the Runner does
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    try:
        load_checkpoint(model, common.source(checkpoint), map_location='cpu', strict=True)
    except RuntimeError as error:
        raise CheckpointError(f'{checkpoint} does not fit {path}: {error}') from error
    return model.backbone


def noise(args: argparse.Namespace) -> Iterator[Tensor]:
    """Gaussian noise of mean 0 and variance 1, as normalised images have: (1, 3, size, size) each."""
    generator = torch.Generator().manual_seed(args.seed)
    for _ in range(args.num_images):
        yield torch.randn(1, 3, args.size, args.size, generator=generator)


def photographs(paths: List[Path], size: int) -> Iterator[Tensor]:
    """Image files, resized without regard to their shape, as the authors do, and normalised: (1, 3, size, size) each."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    for path in paths:
        with Image.open(path) as image:
            pixels = np.array(image.convert('RGB').resize((size, size), Image.BICUBIC))
        yield ((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)[None]


def measure(backbone: nn.Module, images: Iterator[Tensor], count: int, name: str) -> np.ndarray:
    device = get_device()
    backbone.to(device).requires_grad_(False)
    backbone.eval()  # mmpretrain's ConvNeXt returns None here
    batches = (image.to(device) for image in track(images, name, total=count))
    return mean_scores(last_map(backbone), batches)


def draw(maps: Dict[str, np.ndarray], path: Path) -> None:
    """Above as the authors rescale the scores, below in decades; the square holds half of what is above."""
    figure, axes = plt.subplots(2, len(maps), figsize=(3.2 * len(maps) + .8, 6.8), layout='constrained', squeeze=False)
    floor = 10.**-DECADES
    for (top, bottom), (name, scores) in zip(axes.T, maps.items()):
        shown = rescaled(scores)
        linear = top.imshow(shown, cmap='magma', vmin=0, vmax=1)
        decades = bottom.imshow(np.maximum(shown, floor), cmap='magma', norm=LogNorm(floor, 1))
        side, ratio = area_ratio(shown, .5)
        corner = [size // 2 - side / 2 for size in scores.shape[::-1]]
        for axis in (top, bottom):
            axis.add_patch(plt.Rectangle(corner, side, side, fill=False, edgecolor='cyan', linewidth=1))
            axis.set_xticks([])
            axis.set_yticks([])
        top.set_title(f'{name}\nhalf of it in {ratio:.1%} of the area', fontsize=9)
    figure.colorbar(linear, ax=axes[0], label='contribution, log10(score + 1), rescaled', shrink=.8)
    figure.colorbar(decades, ax=axes[1], label='the same in decades', shrink=.8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def table(results: Dict[str, dict]) -> str:
    """The area ratios in Markdown."""
    thresholds = list(next(iter(results.values()))['area_ratios'])
    lines = ['| | ' + ' | '.join(f't = {t}' for t in thresholds) + ' |', '|---' * (len(thresholds) + 1) + '|']
    lines += [f'| {name} | ' + ' | '.join(f'{ratio:.1%}' for ratio in result['area_ratios'].values()) + ' |'
              for name, result in results.items()]
    return '\n'.join(lines) + '\n'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files; by default the three models of figure 3')
    parser.add_argument('--checkpoint', nargs='+', default=[], help='one for each config: path or URL, in any format tools/test.py '
                        'takes; by default weights are random')
    parser.add_argument('--size', type=int, default=1024, help='height and width of the images; default: %(default)s, as the paper')
    parser.add_argument('--num-images', type=int, default=50, help='default: %(default)s, as the paper')
    parser.add_argument('--images', type=Path, help='folder with images; by default they are Gaussian noise')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/erf'), help='folder for erf.png, erf.json, and the scores of each '
                        'model as erf.npz; default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of random weights and of the noise')
    args = parser.parse_args()
    if args.checkpoint and len(args.checkpoint) != len(args.configs):
        parser.error(f'--checkpoint must name one for each of the {len(args.configs)} configs, got {len(args.checkpoint)}')
    if args.size < 32 or args.num_images < 1:
        parser.error('--size must be at least 32, --num-images at least 1')
    missing = [path for path in args.configs + args.checkpoint if '://' not in path and not Path(path).is_file()]
    if missing:
        parser.error(f'{missing[0]} is not there')
    args.files = []
    if args.images:
        args.files = sorted(path for path in args.images.rglob('*') if path.suffix.lower() in SUFFIXES)[:args.num_images]
        if not args.files:
            parser.error(f'{args.images} has no images: no file ends in {", ".join(SUFFIXES)}')
    return args


def main():
    args = parse_args()
    if args.checkpoint:
        builders = {f'{Path(config).stem}, {Path(checkpoint).name}': lambda config=config, checkpoint=checkpoint:
                    from_checkpoint(config, checkpoint) for config, checkpoint in zip(args.configs, args.checkpoint)}
    elif args.configs:
        builders = {Path(config).stem: lambda config=config: from_config(config, args.seed) for config in args.configs}
    else:
        builders = {name: lambda build=build: randomize(build, args.seed) for name, build in COMPARISON.items()}
    maps = {}
    for name, build in builders.items():
        images = photographs(args.files, args.size) if args.files else noise(args)
        maps[name] = measure(build(), images, len(args.files) or args.num_images, name)
    results = {name: dict(area_ratios=area_ratios(rescaled(scores)), area_ratios_of_raw_scores=area_ratios(scores),
                          largest_score=float(scores.max())) for name, scores in maps.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    settings = dict(size=args.size, images=str(args.images or 'noise'), num_images=len(args.files) or args.num_images, seed=args.seed,
                    checkpoints=args.checkpoint or 'random weights')
    (args.out / 'erf.json').write_text(json.dumps(dict(settings=settings, models=results), indent=1) + '\n')
    np.savez_compressed(args.out / 'erf.npz', **{name: scores.astype(np.float32) for name, scores in maps.items()})
    draw(maps, args.out / 'erf.png')
    print(f'{table(results)}\nr: area of the smallest centred square that holds t of the contributions, over that of the image\n'
          f'{args.out}/erf.png, erf.json, erf.npz')


if __name__ == '__main__':
    common.run(main)
