"""Micro SLaKs on real data, scikit-learn's handwritten digits: dense or sparse, static or dynamic, small kernels or large.

A seed settles the split, the order of the data, the initial weights and the masks. The same settings give the same numbers on a CPU.
Needs scikit-learn.
"""
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from ...compat import wrap_step
from ...models import SLaK
from ...sparsity import DynamicSparsity, maskable
from .plan import DEPTHS, KERNEL_SIZES

SMALL_KERNEL_SIZE = 3
BATCH_SIZE = 25
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
INTERVAL = 10  # of 360 steps; the paper's is 100 of 94,000
PRUNE_RATE = .3
SWEEP_RATES = (.1, .3, .5)
SWEEP_INTERVALS = (3, 10, 30)


@dataclass(frozen=True)
class Settings:
    """What all models of a study have in common.

    Args:
        nonzero (int): Parameters that a sparse model keeps, see :func:`nonzero_for`.
        epochs (int): Over the training images.
        train_images (int): Their number.
        test_images (int, optional): Their number. Defaults to None: all that are left.
        image_size (int): Height and width in pixels.
        channels (Sequence[int]): Of the four stages.
    """
    nonzero: int
    epochs: int = 30
    train_images: int = 300
    test_images: Optional[int] = None
    image_size: int = 64
    channels: Sequence[int] = (8, 16, 32, 64)


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
            arch=dict(depths=DEPTHS, channels=channels), in_channels=1, kernel_sizes=reachable(KERNEL_SIZES[kernel], image_size),
            small_kernel_size=SMALL_KERNEL_SIZE, width_factor=1., norm_cfg=dict(type='BN'), layer_scale_init_value=0.)
        self.head = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1])


def load(seed: int, settings: Settings) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; each class has its share of both."""
    digits = load_digits()
    train, test = train_test_split(torch.arange(len(digits.target)), train_size=settings.train_images, test_size=settings.test_images,
                                   stratify=digits.target, random_state=seed)
    images, labels = torch.tensor(digits.images, dtype=torch.float)[:, None], torch.tensor(digits.target)
    images = F.interpolate(images, (settings.image_size, settings.image_size), mode='bilinear')
    images = (images - images[train].mean()) / images[train].std()
    return images[train], labels[train], images[test], labels[test]


def train(variant: Variant, seed: int, settings: Settings) -> Dict[str, float]:
    """Trains one model, and returns its test accuracy in %, the mean loss of its last epoch and its non-zero parameters."""
    images, labels, test_images, test_labels = load(seed, settings)
    torch.manual_seed(seed)
    model = Classifier(variant.kernel, settings.image_size, settings.channels)
    total_steps = settings.epochs * -(-len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps)
    if variant.sparse:
        sparsity = DynamicSparsity(model, total_steps, sparsity_for(settings.nonzero, model), grow=variant.grow,
                                   interval=variant.interval, prune_rate=variant.prune_rate, seed=seed)
        sparsity.initialize(lambda: F.cross_entropy(model(images[:BATCH_SIZE]), labels[:BATCH_SIZE]))
        wrap_step(optimizer, sparsity.before_step, sparsity.step)
    order = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
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


def nonzero_for(sparsity: float, image_size: int, channels: Sequence[int]) -> int:
    """Parameters that are left of a model with 51 kernels if this share of its masked weights is zero."""
    total, masked = count(Classifier(51, image_size, channels))
    return total - round(sparsity * masked)


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
