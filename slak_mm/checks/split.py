"""What the checks look at: a loader that is built, and the model that its batches are for."""
from copy import copy, deepcopy
from dataclasses import dataclass, field
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from mmengine.dataset import BaseDataset
from torch import nn

SAMPLE = 64  # to read all of ADE20K takes minutes, so of each data set this many items, evenly spaced


@dataclass(frozen=True)
class Split:
    """The data of a training, a validation or a test.

    Args:
        name (str): 'train', 'val' or 'test'.
        loader (DataLoader): As the Runner builds it from the config.
        model (nn.Module): Without the wrappers of a distributed training.
        metrics (Sequence): Of its evaluator. Defaults to none.
        max_iters (int, optional): Number of iterations of a training that counts them. Defaults to None: it counts epochs.
    """

    name: str
    loader: Any
    model: nn.Module
    metrics: Sequence = ()
    max_iters: Optional[int] = None
    heads: Tuple['Head', ...] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, 'heads', tuple(heads_of(self.model)))

    @property
    def training(self) -> bool:
        return self.name == 'train'

    @property
    def datasets(self) -> List[Any]:
        """Those in wrappers, or the data set itself; of OpenMMLab only."""
        return [dataset for dataset in unwrap_dataset(self.loader.dataset) if hasattr(dataset, 'get_data_info')]


@dataclass(frozen=True)
class Head:
    """A part of a model that tells classes apart.

    Args:
        name (str): Where it is in the model, as ``roi_head.bbox_head.0``.
        num_classes (int): How many.
        ignore_index (int, optional): The label that its loss leaves out. Defaults to None: none.
    """

    name: str
    num_classes: int
    ignore_index: Optional[int] = None


def heads_of(model: nn.Module) -> Iterator[Head]:
    """Each module of a model's heads that has ``num_classes``: box and mask heads of each stage, decode and auxiliary heads,
    classifiers, and losses that count classes.

    What tells other things apart is left out: objects from background (an RPN, a head that is agnostic of classes, STDC's details),
    stuff beside the objects (HTC), persons (re-identification), words (grounding); and a teacher, which is not trained.
    """
    if hasattr(model, 'language_model'):
        return
    for name, module in model.named_modules():
        parts = name.split('.')
        if not any('head' in part for part in parts):
            continue
        if any(part in ('backbone', 'semantic_head') or any(word in part for word in ('rpn', 'teacher', 'reid')) for part in parts):
            continue
        number = getattr(module, 'num_classes', None)
        if not isinstance(number, int) or getattr(module, 'class_agnostic', False) or type(module).__name__ == 'STDCHead':
            continue
        yield Head(name, number, getattr(module, 'ignore_index', None))


def unwrap_dataset(dataset: Any) -> Iterator[Any]:
    """The data sets in wrappers (repeated, concatenated, of several images), or the data set itself."""
    dataset = _behind(dataset)
    inner = getattr(dataset, 'datasets', [dataset.dataset] if hasattr(dataset, 'dataset') else None)
    if inner is None:
        yield dataset
    for wrapped in inner or ():
        yield from unwrap_dataset(wrapped)


def _behind(dataset: Any) -> Any:
    """The data set to which a proxy (mmengine's of ``num_batch_per_epoch``) hands on all that it is asked."""
    while '_dataset' in getattr(dataset, '__dict__', {}):
        dataset = vars(dataset)['_dataset']
    return dataset


def isolate(dataset: Any) -> Any:
    """A shallow copy whose pipelines are deep ones: what a transform keeps (a cache of images) stays as it is in the original."""
    clone = copy(_behind(dataset))
    if hasattr(clone, 'pipeline'):
        clone.pipeline = deepcopy(clone.pipeline)
    if hasattr(clone, 'dataset'):
        clone.dataset = isolate(clone.dataset)
    if hasattr(clone, 'datasets'):
        clone.datasets = [isolate(inner) for inner in clone.datasets]
    return clone


def transforms_of(dataset: Any) -> Optional[Sequence]:
    """The steps of its pipeline; None where it does not simply run them one after another."""
    if getattr(type(dataset), 'prepare_data', None) is not BaseDataset.prepare_data:
        return None
    return getattr(getattr(dataset, 'pipeline', None), 'transforms', None)


def spread(number: int, most: Optional[int] = None) -> List[int]:
    """At most ``most`` (by default ``SAMPLE``) numbers below ``number``, evenly spaced, with the first and the last."""
    if not number:
        return []
    return [int(i) for i in np.unique(np.linspace(0, number - 1, SAMPLE if most is None else most).astype(int))]


def source_of(dataset: Any) -> str:
    """Where a data set comes from, for messages: its file of annotations, else its folder."""
    prefix = getattr(dataset, 'data_prefix', None) or ''
    if isinstance(prefix, dict):
        prefix = ', '.join(str(path) for path in prefix.values() if path)
    return str(getattr(dataset, 'ann_file', '') or prefix or getattr(dataset, 'data_root', '') or type(dataset).__name__)


def classes_of(dataset: Any) -> Tuple[str, ...]:
    """Names of its classes; none if it has none, or is not of OpenMMLab."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    return () if isinstance(classes, str) else tuple(classes)


def chose_classes(dataset: Any) -> bool:
    """Whether its config names the classes: else it has those of its type, 80 or 20."""
    return classes_of(dataset) != tuple(getattr(type(dataset), 'METAINFO', {}).get('classes') or ())
