"""Dense or sparse, static or dynamic, small kernels or large: micro SLaKs on real data, scikit-learn's handwritten digits.

Trains each variant from several seeds and writes a table (study.md), every number (study.json) and a figure (study.png). A seed
settles the split, the order of the data, the initial weights and the masks. The same command gives the same numbers on a CPU.

With --sweep it varies how much and how often the masks adapt instead (the paper's figure 5), and writes sweep.md, .json and .png.
"""
import argparse
import json
from pathlib import Path

import common
import matplotlib
import torch
from rich.progress import track

matplotlib.use('Agg')
from slak_mm.analysis import study_report  # noqa: E402
from slak_mm.analysis.study import (  # noqa: E402
    SWEEP,
    VARIANTS,
    Settings,
    nonzero_for,
    summarize,
    summarize_sweep,
    train,
)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/study'), help='folder for study.md, study.json, study.png')
    parser.add_argument('--sweep', action='store_true', help='the rate and the interval of adaptation instead, with 51 kernels')
    parser.add_argument('--seeds', type=int, default=8, help='number of seeds, at least 2')
    parser.add_argument('--epochs', type=int, default=30)
    parser.add_argument('--sparsity', type=float, default=0.8, help='of the sparse models with 51 kernels; that of the others follows')
    parser.add_argument('--train-images', type=int, default=300)
    parser.add_argument('--test-images', type=int, help='all that are left, unless given')
    parser.add_argument('--image-size', type=int, default=64)
    parser.add_argument('--channels', type=int, nargs=4, default=(8, 16, 32, 64))
    parser.add_argument('--threads', type=int, default=1)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    settings = Settings(nonzero_for(args.sparsity, args.image_size, args.channels), args.epochs, args.train_images, args.test_images,
                        args.image_size, args.channels)
    name, variants = ('sweep', SWEEP) if args.sweep else ('study', VARIANTS)
    runs = [dict(variant=variant.name, seed=seed, **train(variant, seed, settings))
            for seed, variant in track([(seed, variant) for seed in range(args.seeds) for variant in variants], 'training')]
    rows = summarize_sweep(runs) if args.sweep else summarize(runs)
    markdown = study_report.sweep_table(rows) if args.sweep else study_report.table(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    written = {name: value for name, value in vars(args).items() if name not in ('out', 'sweep')}
    result = dict(settings=dict(written, nonzero=settings.nonzero), torch=torch.__version__, summary=rows, runs=runs)
    (args.out / f'{name}.json').write_text(json.dumps(result, indent=1) + '\n')
    (args.out / f'{name}.md').write_text(markdown)
    if args.sweep:
        study_report.draw_sweep(rows, args.out / 'sweep.png')
    else:
        study_report.draw(runs, rows, args.out / 'study.png')
    print(f'{markdown}\n{args.out}/{name}.md, {name}.json, {name}.png')


if __name__ == '__main__':
    common.run(main)
