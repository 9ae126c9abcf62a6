"""Where in the long kernels of the classifiers of :mod:`.photos` the weights are that are not zero."""
from pathlib import Path
from statistics import mean
from typing import Dict, List

from ...checkpoints import load_file, select_state_dict
from ...errors import InputError
from .execute import has_ended, run_folder, trained
from .photos import FOLDS, REFERENCE, STUDY

# of one shape, with masks in the kernels: drawn at random once, and moved in training
COMPARED = ('51, sparse, static', REFERENCE, '51, sparse, dynamic (gradient)')
LAYERS = [f'backbone.stages.{i}.0.large_kernel' for i in range(4)]


def profile(checkpoint: str) -> Dict[str, List[float]]:
    """Of the first block of each stage, the share of weights that are not zero at each place along the long side of its kernels.

    Args:
        checkpoint (str): Of a classifier with decomposed kernels.

    Returns:
        dict[str, list[float]]: By the name of the layer; the mean over channels, the short side, and the tall and the wide kernels.
    """
    weights = select_state_dict(load_file(checkpoint))
    found = {}
    for layer in LAYERS:
        tall, wide = ((weights[f'{layer}.{name}.conv.weight'] != 0).double() for name in ('tall', 'wide'))
        found[layer] = ((tall.mean((0, 1, 3)) + wide.mean((0, 1, 2))) / 2).tolist()
    return found


def measure_profiles(work_dir: Path) -> Dict[str, Dict[str, List[float]]]:
    """:func:`profile` of each compared variant, the mean over its folds that have ended.

    Args:
        work_dir (Path): Of the study.

    Raises:
        InputError: A variant has no fold that has ended.
    """
    found = {}
    for variant in COMPARED:
        folds = [fold for fold in range(FOLDS) if has_ended(run_folder(work_dir, STUDY, variant, fold))]
        if not folds:
            raise InputError(f'{variant!r} is not trained in {work_dir}: run "study.py run {STUDY}" first, with the same --work-dir.')
        profiles = [profile(trained(work_dir, STUDY, variant, fold)) for fold in folds]
        found[variant] = {layer: [round(mean(shares), 4) for shares in zip(*(each[layer] for each in profiles))] for layer in LAYERS}
    return found
