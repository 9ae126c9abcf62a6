"""Classification of photos, in five folds: dense, sparse, static, dynamic, kernels of 7, 31 and 51, weights, neurons and 2:4.

Needs scikit-learn.
"""
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import InputError
from .plan import KERNEL_SIZES, Run, classifier_size, sparsity_for, width_for, widths

STUDY, CONFIG, METRIC = 'classification', 'study/slak_micro_clothing.py', 'accuracy/top1'
CHANNELS = (16, 32, 64, 128)
FOLDS = 5
SPARSITY = .4  # the paper's
INTERVAL = 20  # optimizer steps between adaptations, of 1,425; the paper's is 100 of 94,000
NEURONS = .3  # share of the hidden units that a model of neurons and weights does without
SUFFIXES = ('.jpg', '.jpeg', '.png')
DENSE, REFERENCE = '51, dense', '51, sparse, dynamic (random)'


class Variant(NamedTuple):
    """What is trained.

    Args:
        kernel (int): The paper's kernels that start with it.
        width (float, optional): Width factor; None: at which the dense model has as many parameters as the sparse ones.
        sparsity (float, optional): Share of the maskable weights that is zero; None: whatever leaves as many as the reference has.
        hook (dict, optional): Options of ``SparsityHook``; None: dense.
        neurons (float, optional): Share of the MLPs' hidden units that is gone, beside as many weights as leave as many parameters as
            the reference has; 1: units alone, as many as that takes. None: weights alone.
    """
    kernel: int = 51
    width: Optional[float] = 1.
    sparsity: Optional[float] = SPARSITY
    hook: Optional[Dict[str, Any]] = None
    neurons: Optional[float] = None


DYNAMIC = dict(grow='random')
VARIANTS = {
    DENSE: Variant(),
    '51, sparse, static': Variant(hook=dict(grow=None)),
    REFERENCE: Variant(hook=DYNAMIC),
    '51, sparse, dynamic (gradient)': Variant(hook=dict(grow='gradient')),
    '51, dense, narrower': Variant(width=None),
    '51, sparse, dynamic (random), 1.3x wider': Variant(width=1.3, hook=DYNAMIC),
    '31, sparse, dynamic (random)': Variant(31, sparsity=None, hook=DYNAMIC),
    '7, sparse, dynamic (random)': Variant(7, sparsity=None, hook=DYNAMIC),
    '51, neurons and weights, dynamic (random)': Variant(hook=DYNAMIC, neurons=NEURONS),
    '51, neurons, dynamic (random)': Variant(hook=DYNAMIC, neurons=1.),
    '51, 2:4, dynamic (random)': Variant(hook=dict(DYNAMIC, pattern='2:4')),
}


def list_photos(data: Path) -> Tuple[List[str], List[str]]:
    """The photos ``SPLIT/CLASS/FILE`` or ``CLASS/FILE`` of a folder, sorted, and its classes.

    Raises:
        InputError: There are no photos of two classes.
    """
    paths = sorted(str(path.relative_to(data)) for path in data.rglob('*') if path.suffix.lower() in SUFFIXES)
    classes = sorted({Path(path).parent.name for path in paths})
    if len(classes) < 2:
        raise InputError(f'{data} must hold photos as CLASS/FILE.jpg or SPLIT/CLASS/FILE.jpg, of at least two classes; found '
                         f'{len(paths)} of {len(classes)}.')
    return paths, classes


def write_folds(data: Path, folder: Path, folds: int = FOLDS) -> Tuple[List[str], int]:
    """Writes ``0_train.txt``, ``0_test.txt`` and so on: lines of a path and a class, so that each photo is in one test list.

    Args:
        data (Path): See :func:`list_photos`.
        folder (Path): Where to write them.
        folds (int): Their number; each class has its share of each. Defaults to 5.

    Returns:
        tuple[list[str], int]: The classes, and the number of photos.
    """
    from sklearn.model_selection import StratifiedKFold
    paths, classes = list_photos(data)
    labels = [classes.index(Path(path).parent.name) for path in paths]
    folder.mkdir(parents=True, exist_ok=True)
    for fold, parts in enumerate(StratifiedKFold(folds, shuffle=True, random_state=0).split(paths, labels)):
        for name, part in zip(('train', 'test'), parts):
            (folder / f'{fold}_{name}.txt').write_text(''.join(f'{paths[i]} {labels[i]}\n' for i in part), encoding='utf-8')
    return classes, len(paths)


def folds_of(data: Path, work_dir: Path) -> Tuple[List[str], Callable[[int], Dict[str, Any]]]:
    """Writes the lists of the folds to ``work_dir``; the classes, and what a fold changes in the config besides the model."""
    data, lists = data.absolute(), work_dir.absolute() / 'folds'
    classes, _ = write_folds(data, lists)

    def dataset(fold: int, part: str) -> Dict[str, Any]:
        source = dict(data_root='', data_prefix=str(data), ann_file=str(lists / f'{fold}_{part}.txt'), metainfo=dict(classes=classes))
        return dict(dataset=source)

    def changes(fold: int) -> Dict[str, Any]:
        return dict(data_preprocessor=dict(num_classes=len(classes)), train_dataloader=dataset(fold, 'train'),
                    test_dataloader=dataset(fold, 'test'), randomness=dict(seed=fold))

    return classes, changes


def _hook(variant: Variant, nonzero: int, size, seed: int) -> Dict[str, Any]:
    sparsity = variant.sparsity if variant.sparsity is not None else sparsity_for(nonzero, size)
    options: Dict[str, Any] = dict(variant.hook or {}, type='slak_mm.SparsityHook', interval=INTERVAL, seed=seed)
    if 'pattern' in options:
        return options
    # the same share of each layer: by SNIP it would be one of units, of which some have more weights than others
    if variant.neurons == 1:
        return dict(options, granularity='neuron', sparsity={'*': (size.total - nonzero) / size.neurons})
    if variant.neurons is not None:
        gone = variant.neurons * size.neurons
        rest = (size.total - nonzero - gone) / (size.maskable - gone)
        return dict(options, granularity=dict(neuron={'*': variant.neurons}, weight=rest))
    return dict(options, sparsity=sparsity)


def model_of(variant: Variant, seed: int, num_classes: int, channels: Sequence[int] = CHANNELS) -> Dict[str, Any]:
    """The changes to the config that make it train a variant."""
    full = classifier_size(tuple(channels), 51, num_classes)
    nonzero = full.total - round(SPARSITY * full.maskable)
    factor = width_for(nonzero, channels, variant.kernel, num_classes) if variant.width is None else variant.width
    own = widths(channels, factor)
    changes: Dict[str, Any] = dict(model=dict(
        backbone=dict(arch=dict(channels=own), kernel_sizes=KERNEL_SIZES[variant.kernel]),
        head=dict(in_channels=own[-1], num_classes=num_classes)))
    if variant.hook is not None:
        changes['custom_hooks'] = [_hook(variant, nonzero, classifier_size(own, variant.kernel, num_classes), seed)]
    return changes


def plan(data: Path, work_dir: Path, folds: int = FOLDS, channels: Sequence[int] = CHANNELS) -> List[Run]:
    """The runs, fold by fold; writes the lists of the folds to ``work_dir``.

    Args:
        data (Path): Folder of the photos, see :func:`list_photos`.
        work_dir (Path): Of the study.
        folds (int): How many of the five folds to run. Defaults to 5.
        channels (Sequence[int]): Of the four stages. Defaults to (16, 32, 64, 128).
    """
    classes, changes = folds_of(data, work_dir)
    return [Run(STUDY, name, fold, CONFIG, dict(model_of(variant, fold, len(classes), channels), **changes(fold)), METRIC,
                classifies=True)
            for fold in range(folds) for name, variant in VARIANTS.items()]
