"""A task that needs distance, see :mod:`slak_mm.toy.corners`, for kernels of 7, 31 and 51, decomposed and square."""
from typing import List, Sequence

from .photos import CHANNELS
from .plan import KERNEL_SIZES, Run

STUDY, CONFIG, METRIC = 'distance', 'study/slak_micro_corners.py', 'accuracy/top1'
SIDES = (24, 48, 96)
FORMS = {'decomposed': 'decomposed', 'square': 'reparam'}
SEEDS = 3
ONE, ALL = 'one block', 'all stages'


def variant(side: int, kernel: int, form: str, depth: str = ONE) -> str:
    """What a run is called."""
    return f'{side} pixels: {kernel}, {form}, {depth}'


def plan(seeds: int = SEEDS, channels: Sequence[int] = CHANNELS, sides: Sequence[int] = SIDES) -> List[Run]:
    """The runs, seed by seed.

    Args:
        seeds (int): Their number. Defaults to 3.
        channels (Sequence[int]): Of the four stages. Defaults to (16, 32, 64, 128).
        sides (Sequence[int]): Of the squares, in pixels. Defaults to (24, 48, 96).
    """
    models = [(kernel, name, ONE) for kernel in KERNEL_SIZES for name in FORMS] + [(kernel, 'decomposed', ALL) for kernel in (51, 7)]
    return [Run(STUDY, variant(side, kernel, form, depth), seed, CONFIG, dict(
        side=side,
        model=dict(backbone=dict(arch=dict(channels=tuple(channels)), kernel_sizes=KERNEL_SIZES[kernel], large_kernel=FORMS[form],
                                 out_indices=0 if depth == ONE else 3),
                   head=dict(in_channels=channels[0 if depth == ONE else 3])),
        train_dataloader=dict(dataset=dict(side=side, seed=2 + seed)),
        test_dataloader=dict(dataset=dict(side=side)),
        randomness=dict(seed=seed)), METRIC) for seed in range(seeds) for side in sides for kernel, form, depth in models]
