"""Draws effective receptive fields next to each other, and measures them (the paper's figure 3 and table 10).

Without a config it compares ConvNeXt-T, the same with 31x31 kernels as RepLKNet trains them, and SLaK-T, at random weights. With
configs it draws their backbones, of any OpenMMLab library, at random weights or from checkpoints. Random weights have a layer scale
of 1, if the backbone is a SLaK or a ConvNeXt: at the usual 1e-6 no block would contribute anything.
"""
import argparse
import json
from pathlib import Path

import common
import matplotlib
import numpy as np

matplotlib.use('Agg')
from slak_mm.analysis.erf import area_ratios, rescaled  # noqa: E402
from slak_mm.analysis.erf_figure import draw, table  # noqa: E402
from slak_mm.analysis.erf_models import (  # noqa: E402
    COMPARISON,
    from_checkpoint,
    from_config,
    image_channels,
    labels,
    measure,
    noise,
    photographs,
    randomize,
)
from slak_mm.errors import InputError  # noqa: E402

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def parse_args(argv=None):
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
    args = parser.parse_args(argv)
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


def main(argv=None):
    args = parse_args(argv)
    if args.checkpoint:
        builders = {name: lambda pair=pair: from_checkpoint(*pair)
                    for name, *pair in zip(labels(args.configs, args.checkpoint), args.configs, args.checkpoint)}
    elif args.configs:
        builders = {name: lambda config=config: from_config(config, args.seed)
                    for name, config in zip(labels(args.configs), args.configs)}
    else:
        builders = {name: lambda build=build: randomize(build, args.seed) for name, build in COMPARISON.items()}
    maps = {}
    for name, build in builders.items():
        backbone = build()
        channels = image_channels(backbone)
        if args.files and channels != 3:
            raise InputError(f'{name}: the images of --images are read as RGB, the backbone takes {channels} channels. Leave --images '
                             'out.')
        images = photographs(args.files, args.size) if args.files else noise(args.num_images, args.size, args.seed, channels)
        maps[name] = measure(backbone, images, len(args.files) or args.num_images, name)
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
