"""Images and label maps: those of a sample, by the pipeline's own loaders."""
import os.path as osp
import warnings
from collections import Counter
from io import BytesIO
from typing import Any, Iterator, Optional, Set, Tuple

import mmcv
import numpy as np
from mmengine.fileio import get
from PIL import Image

from .findings import ERROR, FINE, WARNING, DataError, Finding, listed
from .items import same_random, steps, unreadable
from .left_out import find_remedy
from .split import SAMPLE, Split, classes_of, isolate, source_of, spread, transforms_of

ORIENTATION = 0x0112  # of EXIF: 1 is upright, 5 to 8 swap height and width
MOST_FILES = 20_000  # whose presence is looked up: a moment on a disk, seconds on a network
REMEDY_EXIF = ("Its EXIF orientation is the likely cause: the pipeline turns the photo. If the labels are of the stored pixels, set "
               "color_type='color_ignore_orientation' in LoadImageFromFile of each pipeline.")


def check_files(split: Split) -> Iterator[Finding]:
    """Whether there are data, and the files of images and label maps that the pipeline reads from the disk."""
    for dataset in split.datasets:
        if not len(dataset):
            yield Finding(ERROR, f'{type(dataset).__name__}: no images are found by {source_of(dataset)}. {find_remedy(dataset)}')
            return
        if (getattr(dataset, 'backend_args', None) or {}).get('backend', 'local') != 'local':
            continue
        keys = ['img_path']
        if any('LoadAnnotations' in type(transform).__name__ and getattr(transform, 'with_seg', True)
               for transform in transforms_of(dataset) or ()):
            keys.append('seg_map_path')
        numbers = spread(len(dataset), MOST_FILES)
        for i in numbers:
            info = dataset.get_data_info(i)
            for key in keys if isinstance(info, dict) else ():
                path = info.get(key)
                if isinstance(path, str) and '://' not in path and not osp.exists(path):
                    what = 'the label map of' if key == 'seg_map_path' else 'the image of item'
                    item = info.get('img_path') if key == 'seg_map_path' else i
                    yield Finding(ERROR, f'{path} is not there: it is {what} {item}. Put it there, or fix data_root, data_prefix and '
                                         'the suffixes of the data set.')
                    return
        yield Finding(FINE, f'{source_of(dataset)}: {len(dataset)} items, and the files of {len(numbers)} that were looked up.')


def check_items(split: Split) -> Iterator[Finding]:
    """Runs a sample of each data set through its pipeline, and looks at what was loaded.

    An image must be whole, and of the size that the annotations give. A label map must be one number for each pixel of its image; each
    is a class or to be ignored.

    Raises:
        DataError: A transform cannot take an item.
    """
    labels: Counter = Counter()  # in how many label maps each occurs
    looked_at = 0
    for dataset in split.datasets:
        numbers, dropped = spread(len(dataset), SAMPLE), 0
        looked_at += len(numbers)
        probe, warned = isolate(dataset), False
        turned = [path for path in (_turned_in_secret(probe, i) for i in numbers) if path]
        if turned:
            yield Finding(WARNING, f'{source_of(dataset)}: {len(turned)} of {len(numbers)} photos that were looked at have an EXIF '
                                   f'orientation that does not show in their size, the first is {turned[0]}. The pipeline turns '
                                   "them: labels must be of the turned photo; or set color_type='color_ignore_orientation' in "
                                   'LoadImageFromFile.')
        for i in numbers:
            finding, found, kept = _look(split, probe, i)
            if finding and not (warned and finding.level == WARNING):
                yield finding
                warned = True
            labels.update(found)
            dropped += not kept
        if numbers and dropped == len(numbers):
            yield Finding(ERROR, f'{source_of(dataset)}: the pipeline drops each of the {dropped} items that were looked at. Is '
                                 'nothing left of their objects? Look at the transforms that filter and crop.')
            return
        yield Finding(FINE, f'{source_of(dataset)}: {len(numbers)} of {len(dataset)} items pass through the pipeline.')
    if labels and split.heads:
        yield from _check_labels(split, labels, looked_at)


def _turned_in_secret(dataset: Any, i: int) -> str:
    """The path of item ``i`` if its annotations have places, and its EXIF orientation turns it into the same size; else nothing."""
    info = dataset.get_data_info(i)
    loads = [transform for transform in transforms_of(dataset) or () if type(transform).__name__ == 'LoadImageFromFile']
    if not isinstance(info, dict) or not loads or not {'instances', 'seg_map_path'} & set(info):
        return ''
    if getattr(loads[0], 'color_type', '') not in ('color', 'grayscale'):  # the others leave it as it is stored
        return ''
    path = str(info.get('img_path'))
    orientation, square = orientation_of(path, loads[0])
    return path if orientation in (2, 3, 4) or orientation > 4 and square else ''


def _look(split: Split, dataset: Any, i: int) -> Tuple[Optional[Finding], Set[int], bool]:
    """What is wrong with item ``i``, the labels of its label map, and whether the pipeline keeps it."""
    finding: Optional[Finding] = None
    labels: Set[int] = set()
    seen: Set[str] = set()
    results: Any = None
    with same_random():
        for transform, results in steps(dataset, i):
            if not isinstance(results, dict):
                continue
            new = {key for key in ('img', 'gt_seg_map') if isinstance(results.get(key), np.ndarray)} - seen
            seen |= new
            path = results.get('img_path')
            if 'img' in new and isinstance(path, str):
                if getattr(transform, 'imdecode_backend', None) != 'pillow' and cut_short(path, transform):
                    raise unreadable(path, transform)
                finding = finding or _check_size(results, path)
            if 'gt_seg_map' in new and 'img' in seen:
                check_label_map(split, dataset, transform, results)
                labels = {int(label) for label in np.unique(results['gt_seg_map'])}
    return finding, labels, results is not None


def cut_short(path: str, transform: Any = None) -> bool:
    """Whether a file is the beginning of an image: OpenCV fills up what is missing, and does not tell.

    What Pillow cannot judge (other formats, sizes beyond its limit) is not.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(BytesIO(get(path, backend_args=getattr(transform, 'backend_args', None)))) as image:
                image.draft('L', (image.width // 8, image.height // 8))  # an eighth of a JPEG's pixels are enough
                try:
                    image.load()
                except (OSError, SyntaxError) as error:
                    return any(word in str(error) for word in ('truncated', 'broken', 'unrecognized data stream'))
    except Exception:
        pass
    return False


def orientation_of(path: str, transform: Any = None) -> Tuple[int, bool]:
    """The EXIF orientation of a file (1, upright, if it has none), and whether its image is a square."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(BytesIO(get(path, backend_args=getattr(transform, 'backend_args', None)))) as image:
                return image.getexif().get(ORIENTATION, 1), image.width == image.height
    except Exception:
        return 1, False


def _check_size(results: dict, path: str) -> Optional[Finding]:
    """The size that the annotations give, and that of the image as it was loaded."""
    height, width = results['img'].shape[:2]
    given = results.get('width'), results.get('height')
    if not all(given) or given == (width, height):
        return None
    text = f'{path} is {width}x{height} as the pipeline reads it, its annotations say {given[0]}x{given[1]}: boxes lie wrong.'
    if given == (height, width) and orientation_of(path)[0] > 4:
        return Finding(ERROR, f'{text} {REMEDY_EXIF}')
    return Finding(WARNING, f'{text} Was the image resized after it was annotated?')


def check_label_map(split: Split, dataset: Any, transform: Any, results: dict) -> None:
    """Compares a label map with its image and with the classes.

    Args:
        split (Split): Of the data set.
        dataset: Whose item it is.
        transform: That has just loaded it.
        results (dict): After that transform.

    Raises:
        DataError: It is of another size, has several channels, or a label that is none.
    """
    labels = results['gt_seg_map']
    size = tuple(results.get('ori_shape', results['img'].shape)[:2])  # mmseg's test pipelines resize the image before they load labels
    path = str(results.get('seg_map_path') or results.get('img_path'))
    if labels.ndim != 2 and getattr(transform, 'imdecode_backend', None) is None:
        return  # of volumes, or of several layers
    if labels.ndim != 2:
        raise DataError(f'{path} has {labels.shape[-1]} channels: a label map has one, the index of each class. Save the indices, not '
                        'the colours of a palette.')
    if labels.shape != size:
        text = (f'{path} is {labels.shape[1]}x{labels.shape[0]}, but {results.get("img_path")} is {size[1]}x{size[0]} '
                'as the pipeline reads it.')
        turned = labels.shape == size[::-1] and orientation_of(str(results.get('img_path')))[0] > 4
        raise DataError(f'{text} {REMEDY_EXIF if turned else "Save the label map in the size of its image."}')
    if not any(hasattr(split.model, name) for name in ('decode_head', 'auxiliary_head')):
        return
    found = {int(label) for label in np.unique(labels)}
    raw = _raw_labels(path, transform) if labels.dtype == np.uint8 else None
    if raw is not None and raw.max() > 255:
        found = {int(label) for label in np.unique(raw)}
    numbers = [head.num_classes for head in split.heads] + ([len(classes_of(dataset))] if classes_of(dataset) else [])
    classes, ignored = min(numbers, default=256), ignored_labels(split, dataset)
    wrong = sorted(found - set(range(classes)) - ignored)
    if wrong:
        also = listed(sorted(ignored)) or 'nothing'
        reduced = f', after reduce_zero_label={results["reduce_zero_label"]}' if 'reduce_zero_label' in results else ''
        raise DataError(f'{path} has the label {wrong[-1]}{reduced}: it must be from 0 to {classes - 1}, or {also} to be ignored. '
                        'Fix the data, the classes of the data set, or num_classes and ignore_index of each head.')


def _raw_labels(path: str, transform: Any) -> Optional[np.ndarray]:
    """A label map as it is in the file: mmsegmentation's loader keeps the last 8 bits of each label."""
    try:
        content = get(path, backend_args=getattr(transform, 'backend_args', None))
        return mmcv.imfrombytes(content, flag='unchanged', backend=getattr(transform, 'imdecode_backend', 'pillow'))
    except Exception:  # it is no image, for a loader of the user's own
        return None


def ignored_labels(split: Split, dataset: Any) -> Set[int]:
    """Labels that are no class on purpose: those that each head ignores; without a head, the data set's."""
    ignored = [{head.ignore_index} for head in split.heads if head.ignore_index is not None]
    return set.intersection(*ignored) if ignored else {getattr(dataset, 'ignore_index', 255)}


def _check_labels(split: Split, labels: Counter, number: int) -> Iterator[Finding]:
    """``labels``: in how many of ``number`` label maps each occurs, of all data sets of a split together."""
    dataset = split.datasets[0]
    classes, ignored = classes_of(dataset), ignored_labels(split, dataset)
    if not classes:
        return
    source = listed((source_of(each) for each in split.datasets), 3)
    found = [label for label in labels if label not in ignored]
    never = [name for label, name in enumerate(classes) if label not in labels]
    void = sorted(label for label in ignored & set(labels) if label >= len(classes))
    what = f'{source}: of the {number} label maps looked at (of {sum(map(len, split.datasets))})'
    yield from _check_metrics(split, source, labels, ignored)
    if len(found) < 2 <= len(classes) and void:
        only = f'only class {found[0]} ({classes[found[0]]!r})' if found else 'no class'
        text = (f'{what}, {only} occurs, and {listed(void)}, which is ignored. Are they painted with 0 and 255? Save them as 0 and '
                '1; with reduce_zero_label=True 0 is ignored too.')
        yield Finding(ERROR if split.training else WARNING, text)
    elif never and split.training:
        yield Finding(WARNING, f'{what}, none has {len(never)} of {len(classes)} classes: {listed(never)}. Of them nothing is '
                               'learned, if the others have none either.')
    else:
        yield Finding(FINE, f'{what}, {len(classes) - len(never)} of {len(classes)} classes occur.')


def _check_metrics(split: Split, source: str, labels: Counter, ignored: Set[int]) -> Iterator[Finding]:
    """A label that the heads ignore and the metric counts as an error, whatever is predicted there."""
    for metric in split.metrics:
        own = getattr(metric, 'ignore_index', None)
        wrong = sorted(ignored & set(labels) - {own})
        if wrong and isinstance(own, int):
            yield Finding(ERROR, f'{source}: the label {wrong[0]} is ignored by the model, but {type(metric).__name__} ignores {own} '
                                 f'and counts each prediction there as wrong. Set {split.name}_evaluator.ignore_index={wrong[0]}.')
