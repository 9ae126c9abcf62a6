"""Dense or sparse, static or dynamic, small kernels or large: micro SLaKs on real data, scikit-learn's handwritten digits.

Trains each variant from several seeds and writes a table (study.md), every number (study.json) and a figure (study.png). A seed
settles the split, the order of the data, the initial weights and the masks. The same command gives the same numbers on a CPU.

With --sweep it varies how much and how often the masks adapt instead (the paper's figure 5), and writes sweep.md, .json and .png.
"""
import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, List, Optional, Sequence, Tuple

import common  # noqa: F401
import matplotlib
import torch
import torch.nn.functional as F
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from slak_mm.models import SLaK
from slak_mm.sparsity import DynamicSparsity, maskable

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

KERNEL_SIZES = {51: (51, 49, 47, 13), 7: (7, 7, 7, 7)}
SMALL_KERNEL_SIZE = 3
BATCH_SIZE = 25
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
INTERVAL = 10  # of 360 steps; the paper's is 100 of 94,000
PRUNE_RATE = .3
SWEEP_RATES = (.1, .3, .5)
SWEEP_INTERVALS = (3, 10, 30)


@dataclass(frozen=True)
class Variant:
    """What is trained: the longest kernel's nominal size, dense or sparse, and how a sparse one adapts."""
    name: str
    kernel: int
    sparse: bool = True
    grow: Optional[str] = None
    prune_rate: float = PRUNE_RATE
    interval: int = INTERVAL


REFERENCE = Variant('51, sparse, dynamic (random)', 51, grow='random')
VARIANTS = (
    Variant('51, dense', 51, sparse=False),
    Variant('51, sparse, static', 51),
    REFERENCE,
    Variant('51, sparse, dynamic (gradient)', 51, grow='gradient'),
    Variant('7, sparse, dynamic (random)', 7, grow='random'),
    Variant('7, dense', 7, sparse=False),
)
STATIC = Variant('static', 51)
SWEEP = (STATIC, *(Variant(f'{rate} / {interval}', 51, grow='random', prune_rate=rate, interval=interval)
                   for rate in SWEEP_RATES for interval in SWEEP_INTERVALS))


def reachable(kernel_sizes: Sequence[int], image_size: int) -> List[int]:
    """The kernel of each stage without the taps that meet nothing but padding: at most 2R - 1 on a map of R x R.

    SLaK slices these off, so the stripes compute the same; here they are not even made, or else some of the non-zero parameters
    that are compared would have no effect.
    """
    maps = [image_size // 2**(stage + 2) for stage in range(4)]
    return [max(min(kernel, 2 * size - 1), SMALL_KERNEL_SIZE) for kernel, size in zip(kernel_sizes, maps)]


class Classifier(nn.Module):
    """A SLaK and a linear head, made for a short training of few channels.

    So there is no layer scale, and the weights start as torch's layers do: at the usual std of .02, 8 channels give so weak a
    signal that SNIP leaves nothing of the first block.
    """

    def __init__(self, kernel: int, image_size: int, channels: Sequence[int]):
        super().__init__()
        self.backbone = SLaK(
            arch=dict(depths=(1, 1, 2, 1), channels=channels), in_channels=1, kernel_sizes=reachable(KERNEL_SIZES[kernel], image_size),
            small_kernel_size=SMALL_KERNEL_SIZE, width_factor=1., norm_cfg=dict(type='BN'), layer_scale_init_value=0.)
        self.head = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1])


def load(seed: int, args: argparse.Namespace) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; each class has its share of both."""
    digits = load_digits()
    train, test = train_test_split(torch.arange(len(digits.target)), train_size=args.train_images, test_size=args.test_images,
                                   stratify=digits.target, random_state=seed)
    images, labels = torch.tensor(digits.images, dtype=torch.float)[:, None], torch.tensor(digits.target)
    images = F.interpolate(images, (args.image_size, args.image_size), mode='bilinear')
    images = (images - images[train].mean()) / images[train].std()
    return images[train], labels[train], images[test], labels[test]


def train(variant: Variant, seed: int, args: argparse.Namespace) -> Dict[str, float]:
    """Trains one model, and returns its test accuracy in %, the mean loss of its last epoch and its non-zero parameters."""
    images, labels, test_images, test_labels = load(seed, args)
    torch.manual_seed(seed)
    model = Classifier(variant.kernel, args.image_size, args.channels)
    total_steps = args.epochs * -(-len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps)
    if variant.sparse:
        sparsity = DynamicSparsity(model, total_steps, sparsity_for(args.nonzero, model), grow=variant.grow,
                                   interval=variant.interval, prune_rate=variant.prune_rate, seed=seed)
        sparsity.initialize(lambda: F.cross_entropy(model(images[:BATCH_SIZE]), labels[:BATCH_SIZE]))
        optimizer.register_step_pre_hook(lambda optimizer, *_: sparsity.before_step(optimizer))
        optimizer.register_step_post_hook(lambda optimizer, *_: sparsity.step(optimizer))
    order = torch.Generator().manual_seed(seed)
    for _ in range(args.epochs):
        losses = []
        for batch in torch.randperm(len(images), generator=order).split(BATCH_SIZE):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        predicted = torch.cat([model(chunk).argmax(1) for chunk in test_images.split(100)])
    return dict(accuracy=100 * int((predicted == test_labels).sum()) / len(test_labels), loss=mean(losses),
                nonzero=sum(int(p.count_nonzero()) for p in model.parameters()))


def count(model: nn.Module) -> Tuple[int, int]:
    """Number of parameters, and of those that may be masked."""
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in maskable(model).values())


def sparsity_for(nonzero: int, model: nn.Module) -> float:
    """The share of masked weights that leaves ``nonzero`` parameters."""
    total, masked = count(model)
    return (total - nonzero) / masked


def summarize(runs: List[dict]) -> List[dict]:
    """Mean and standard deviation over the seeds, and the same of the difference in accuracy to the reference of equal seed."""
    reference = [run['accuracy'] for run in runs if run['variant'] == REFERENCE.name]
    rows = []
    for variant in VARIANTS:
        own = [run for run in runs if run['variant'] == variant.name]
        row = dict(variant=variant.name, nonzero=round(mean(run['nonzero'] for run in own)))
        values = dict(accuracy=[run['accuracy'] for run in own], loss=[run['loss'] for run in own])
        values['difference'] = [mine - other for mine, other in zip(values['accuracy'], reference)]
        for name, numbers in values.items():
            row.update({f'{name}_mean': mean(numbers), f'{name}_std': stdev(numbers)})
        rows.append(row)
    return rows


def table(rows: List[dict]) -> str:
    """The summary in Markdown."""
    lines = ['| kernels, training | non-zero parameters | test accuracy, % | minus dynamic (random), same seed | training loss |',
             '|---|---|---|---|---|']
    for row in rows:
        difference = '' if row['variant'] == REFERENCE.name else '{difference_mean:+.2f} ± {difference_std:.2f}'.format(**row)
        lines.append('| {variant} | {nonzero:,} | {accuracy_mean:.2f} ± {accuracy_std:.2f} | {} | {loss_mean:.4f} ± {loss_std:.4f} |'
                     .format(difference, **row))
    return '\n'.join(lines) + '\n'


def draw(runs: List[dict], rows: List[dict], path: Path) -> None:
    """A dot for each run; mean and standard deviation beside them."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout='constrained')
    for y, row in enumerate(rows):
        accuracies = [run['accuracy'] for run in runs if run['variant'] == row['variant']]
        color = 'tab:gray' if 'dense' in row['variant'] else 'tab:blue'
        axes.plot(accuracies, [y + .14] * len(accuracies), 'o', color=color, alpha=.4, markersize=5, markeredgewidth=0)
        axes.errorbar(row['accuracy_mean'], y - .14, xerr=row['accuracy_std'], fmt='D', color=color, capsize=3, markersize=5)
    axes.set_yticks(range(len(rows)), [f"{row['variant']}\n{row['nonzero']:,} non-zero" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel('test accuracy, %   (dots: seeds; diamond and whisker: mean and standard deviation)')
    axes.grid(axis='x', alpha=.3)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    axes.tick_params(axis='y', length=0)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def summarize_sweep(runs: List[dict]) -> List[dict]:
    """Mean and standard deviation over the seeds of accuracy, loss and the difference in accuracy to static of equal seed."""
    static = [run['accuracy'] for run in runs if run['variant'] == STATIC.name]
    rows = []
    for variant in SWEEP:
        own = [run for run in runs if run['variant'] == variant.name]
        values = dict(accuracy=[run['accuracy'] for run in own], loss=[run['loss'] for run in own])
        values['difference'] = [mine - other for mine, other in zip(values['accuracy'], static)]
        row = dict(variant=variant.name, prune_rate=variant.prune_rate if variant.grow else 0, interval=variant.interval)
        for name, numbers in values.items():
            row.update({f'{name}_mean': mean(numbers), f'{name}_std': stdev(numbers)})
        rows.append(row)
    return rows


def sweep_table(rows: List[dict]) -> str:
    """The sweep in Markdown."""
    lines = ['| prune rate / interval | test accuracy, % | minus static, same seed | training loss |', '|---|---|---|---|']
    for row in rows:
        difference = '' if row['variant'] == STATIC.name else '{difference_mean:+.2f} ± {difference_std:.2f}'.format(**row)
        lines.append('| {variant} | {accuracy_mean:.2f} ± {accuracy_std:.2f} | {} | {loss_mean:.4f} ± {loss_std:.4f} |'
                     .format(difference, **row))
    return '\n'.join(lines) + '\n'


def draw_sweep(rows: List[dict], path: Path) -> None:
    """Accuracy and loss over the interval, a line for each prune rate; the band is static training."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
    for axes, value, label in zip(panels, ('accuracy', 'loss'), ('test accuracy, %', 'training loss of the last epoch')):
        static, *dynamic = [(row, row[f'{value}_mean'], row[f'{value}_std']) for row in rows]
        axes.axhspan(static[1] - static[2], static[1] + static[2], color='tab:gray', alpha=.2, linewidth=0)
        axes.axhline(static[1], color='tab:gray', label='static')
        for i, rate in enumerate(SWEEP_RATES):
            points = [entry for entry in dynamic if entry[0]['prune_rate'] == rate]
            # a little apart, or the whiskers would cover each other
            at = [row['interval'] * 1.06**(i - 1) for row, _, _ in points]
            axes.errorbar(at, [point[1] for point in points], yerr=[point[2] for point in points], fmt='o-', markersize=4, capsize=3,
                          label=f'prune rate {rate}')
        axes.set_xscale('log')
        axes.set_xticks(SWEEP_INTERVALS, SWEEP_INTERVALS)
        axes.minorticks_off()
        axes.set_xlabel('optimizer steps between adaptations')
        axes.set_ylabel(label)
        axes.spines[['top', 'right']].set_visible(False)
    panels[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parse_args() -> argparse.Namespace:
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
    return parser.parse_args()


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    total, masked = count(Classifier(51, args.image_size, args.channels))
    args.nonzero = total - round(args.sparsity * masked)
    name, variants = ('sweep', SWEEP) if args.sweep else ('study', VARIANTS)
    runs = [dict(variant=variant.name, seed=seed, **train(variant, seed, args))
            for seed, variant in track([(seed, variant) for seed in range(args.seeds) for variant in variants], 'training')]
    rows = summarize_sweep(runs) if args.sweep else summarize(runs)
    markdown = sweep_table(rows) if args.sweep else table(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(args).items() if name not in ('out', 'sweep')}
    result = dict(settings=settings, torch=torch.__version__, summary=rows, runs=runs)
    (args.out / f'{name}.json').write_text(json.dumps(result, indent=1) + '\n')
    (args.out / f'{name}.md').write_text(markdown)
    if args.sweep:
        draw_sweep(rows, args.out / 'sweep.png')
    else:
        draw(runs, rows, args.out / 'study.png')
    print(f'{markdown}\n{args.out}/{name}.md, {name}.json, {name}.png')


if __name__ == '__main__':
    main()
