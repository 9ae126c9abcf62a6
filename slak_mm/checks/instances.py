"""Objects and labels as a data set has parsed them: all of them, since they are in memory."""
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Set

import numpy as np
from mmengine.fileio import load

from .findings import ERROR, FINE, WARNING, DataError, Finding, listed
from .items import results_of
from .split import Split, classes_of, isolate, source_of, transforms_of

MOST = 20  # suspicious items that are run through the pipeline, of a data set
DRAWS = 8  # how often each: a random crop may drop an object


@dataclass(frozen=True)
class Instances:
    """The N objects of a data set's images, those that are to be ignored left out.

    Args:
        items (ndarray): (N, ), number of the image in the data set.
        labels (ndarray): (N, ).
        boxes (ndarray): (N, 4), left, top, right, bottom; nan where an object has no such box.
        sizes (ndarray): (N, 2), width and height of its image; 0 where they are not known.
        masked (ndarray): (N, ), whether it has a mask.
        unusable (ndarray): (N, ), whether its mask is polygons of which none has three points.
        number (int): Of the objects, with those to be ignored.
        images (set): The numbers that the data set gives its images.
    """

    items: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    masked: np.ndarray
    unusable: np.ndarray
    number: int
    images: Set[Any]


def gather(dataset: Any) -> Instances:
    """Reads what a data set has parsed, once from first to last. An image with one label counts as one object without a box."""
    items: List[int] = []
    labels: List[int] = []
    boxes: List[Any] = []
    sizes: List[Any] = []
    masks: List[bool] = []
    unusable: List[bool] = []
    images: Set[Any] = set()
    number, no_box = 0, (np.nan, ) * 4
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        if not isinstance(info, dict):
            continue
        found = info.get('instances')
        if found is None:
            label = info.get('gt_label')
            found = [dict(bbox_label=each) for each in (label if isinstance(label, (list, tuple, np.ndarray)) else [label])]
        size = info.get('width') or 0, info.get('height') or 0
        number += len(found)
        images.add(info.get('img_id'))
        for instance in found:
            label = instance.get('bbox_label')
            if instance.get('ignore_flag') or not isinstance(label, (int, np.integer)):
                continue
            box, mask = instance.get('bbox'), instance.get('mask')
            items.append(i)
            labels.append(int(label))
            boxes.append(no_box if box is None or len(box) != 4 else box)
            sizes.append(size)
            masks.append(mask is not None)
            unusable.append(isinstance(mask, list) and not any(len(part) % 2 == 0 and len(part) >= 6 for part in mask))
    return Instances(np.array(items, int), np.array(labels, int), np.array(boxes, float).reshape(-1, 4),
                     np.array(sizes, float).reshape(-1, 2), np.array(masks, bool), np.array(unusable, bool),
                     number, images)


def check_instances(split: Split) -> Iterator[Finding]:
    """Boxes without area or outside their image, objects without a mask where masks are trained, labels that no head knows, and
    classes that no object has.

    What a transform of the pipeline takes away, as ``FilterAnnotations`` does, is no fault: a suspicious image is run through it.
    """
    counts: Dict[str, int] = {}
    for dataset in split.datasets:
        found = gather(dataset)
        yield from _check_labels(split, dataset, found)
        if len(found.labels):
            for name, count in zip(classes_of(dataset), np.bincount(found.labels.clip(0), minlength=len(classes_of(dataset)))):
                counts[name] = counts.get(name, 0) + int(count)
        if np.isfinite(found.boxes).any() or any('bbox_head' in head.name for head in split.heads):
            yield from _check_boxes(split, dataset, found)
    never = [name.partition(',')[0] for name, count in counts.items() if not count]  # ImageNet's have synonyms
    if never and split.training:
        sources = listed((source_of(dataset) for dataset in split.datasets), 3)
        yield Finding(WARNING, f'{sources}: nothing is of {len(never)} of {len(counts)} classes, {listed(never, 6)}. The model will '
                               'not learn them.')


def _check_labels(split: Split, dataset: Any, found: Instances) -> Iterator[Finding]:
    classes, source = classes_of(dataset), source_of(dataset)
    numbers = [head.num_classes for head in split.heads] + ([len(classes)] if classes else [])
    if not len(found.labels) or not numbers:
        return
    most = max(numbers) if np.isfinite(found.boxes).any() else min(numbers)
    wrong = np.flatnonzero((found.labels < 0) | (found.labels >= most))
    if len(wrong):
        info = dataset.get_data_info(int(found.items[wrong[0]]))
        yield Finding(ERROR, f'{_path(info, source)} has the label {found.labels[wrong[0]]}, but there are {most} classes: 0 to '
                             f'{most - 1}. Fix the data, the classes of the data set or num_classes of the model.')
        return
    what = 'labels' if np.isnan(found.boxes).all() else 'objects'
    yield Finding(FINE, f'{source}: {len(found.labels)} {what} of {len(np.unique(found.labels))} classes, each known to the model.')


def _check_boxes(split: Split, dataset: Any, found: Instances) -> Iterator[Finding]:
    source, (left, top, right, bottom) = source_of(dataset), found.boxes.T
    categories = getattr(dataset, 'cat_img_map', None) or {}
    annotated = sum(image in found.images for number in getattr(dataset, 'cat_ids', ()) for image in categories.get(number, ()))
    if annotated > found.number:
        yield Finding(WARNING if found.number else ERROR, f'{source}: mmdetection leaves out {annotated - found.number} of '
                      f'{annotated} objects: their area is not above 0, a side is less than a pixel, or they lie outside the width '
                      'and height of their image in the file, or are marked to be ignored.')
    elif split.training and not len(found.labels):
        yield Finding(WARNING, f'{source}: no image shows an object. A model that is trained on them finds nothing.')
    width, height = np.where(found.sizes > 0, found.sizes, np.inf).T
    boxed = ~np.isnan(found.boxes).all(1)
    flat = boxed & ~((right > left) & (bottom > top))
    outside = boxed & ~flat & ((right <= 0) | (bottom <= 0) | (left >= width) | (top >= height))
    for bad, what in ((flat, 'has no area'), (outside, 'lies outside its image')):
        where = np.flatnonzero(bad)
        if len(where) and split.training:
            yield from _refuse_boxes(split, dataset, found, where, what)
    yield from _check_masks(dataset, found)
    if len(found.labels) and not (flat | outside).any():
        yield Finding(FINE, f'{source}: {boxed.sum()} boxes have an area and lie in their images.')


def _refuse_boxes(split: Split, dataset: Any, found: Instances, where: np.ndarray, what: str) -> Iterator[Finding]:
    """An error for the first box that the model would be given."""
    probe = isolate(dataset)
    images = np.unique(found.items[where])
    for item in images[:MOST]:
        if not any(_has_bad_box(results_of(probe, int(item), seed)) for seed in range(DRAWS)):
            continue
        first = where[found.items[where] == item][0]
        info = dataset.get_data_info(int(item))
        box = ', '.join(f'{x:g}' for x in found.boxes[first])
        size = f' of {info["width"]}x{info["height"]}' if 'outside' in what and info.get('width') else ''
        names = classes_of(dataset)
        name = f' of class {names[found.labels[first]]!r}' if found.labels[first] < len(names) else ''
        remedy = ('Correct or remove it, or have the pipeline leave such boxes out: after LoadAnnotations, '
                  "dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False)")
        if 'xml_path' in info and 'area' in what:
            remedy += "; or set filter_cfg=dict(bbox_min_size=1) in the data set, which ignores them"
        more = f' ({len(where)} such boxes in {len(images)} images.)' if len(where) > 1 else ''
        yield Finding(ERROR, f'{_path(info, source_of(dataset))}: a box{name} {what}{size}: left, top, right, bottom are {box}'
                             f'{_annotation(dataset, info, found.boxes[first])}; its loss can be nan. {remedy}.{more}')
        return


def _has_bad_box(results: Any) -> bool:
    """Whether an item, as the pipeline gives it, still has a box without area that is not to be ignored."""
    if results is None:
        return False
    sample = results.get('data_samples') if isinstance(results, dict) else None
    boxes = getattr(getattr(sample, 'gt_instances', None), 'bboxes', None)
    if boxes is None:
        return True
    boxes = np.asarray(getattr(boxes, 'tensor', boxes)).reshape(-1, 4)
    left, top, right, bottom = boxes.T
    flat = ~((right > left) & (bottom > top))
    height, width = getattr(sample, 'img_shape', (np.inf, np.inf))[:2]
    return bool((flat | (right <= 0) | (bottom <= 0) | (left >= width) | (top >= height)).any())


def _check_masks(dataset: Any, found: Instances) -> Iterator[Finding]:
    if not any(getattr(transform, 'with_mask', False) for transform in transforms_of(dataset) or ()):
        return
    source, missing = source_of(dataset), np.flatnonzero(~found.masked)
    if len(missing) and not _passes(isolate(dataset), int(found.items[missing[0]])):
        info = dataset.get_data_info(int(found.items[missing[0]]))
        yield Finding(ERROR, f'{source}: an object in {_path(info, source)}{_annotation(dataset, info, found.boxes[missing[0]])} has '
                             f'no segmentation, but the pipeline loads masks (with_mask=True); so have {len(missing)} of '
                             f'{len(found.labels)} objects. Add their polygons, remove them, or train boxes alone.')
        return
    unusable = np.flatnonzero(found.unusable)
    if len(unusable):
        info = dataset.get_data_info(int(found.items[unusable[0]]))
        yield Finding(WARNING, f'{source}: {len(unusable)} of {len(found.labels)} objects have no polygon of three points (an even '
                               f'number of coordinates, 6 or more), and mmdetection ignores them; the first is in '
                               f'{_path(info, source)}{_annotation(dataset, info, found.boxes[unusable[0]])}.')
    elif len(found.labels) and not len(missing):
        yield Finding(FINE, f'{source}: each of {len(found.labels)} objects has a mask.')


def _passes(dataset: Any, item: int) -> bool:
    """Whether its pipeline takes an item: a loader may find masks elsewhere, as that of panoptic data does."""
    try:
        results_of(dataset, item)
        return True
    except DataError:
        return False


def _path(info: dict, source: str) -> str:
    return str(info.get('xml_path') or info.get('img_path') or source)


def _annotation(dataset: Any, info: dict, box: np.ndarray) -> str:
    """`` (annotation 17 of FILE)`` of a data set in COCO's format. The file is read again, as mmdet does not keep the numbers."""
    if not hasattr(dataset, 'cat_ids'):
        return ''
    number = _annotation_id(dataset, info, box)
    return '' if number is None else f' (annotation {number} of {dataset.ann_file})'


def _annotation_id(dataset: Any, info: dict, box: np.ndarray) -> Optional[int]:
    try:
        annotations = load(dataset.ann_file, file_format='json', backend_args=dataset.backend_args)['annotations']
        for annotation in annotations:
            if annotation['image_id'] == info.get('img_id'):
                x, y, width, height = annotation['bbox']
                if np.allclose((x, y, x + width, y + height), box):
                    return annotation['id']
    except (KeyError, TypeError, ValueError):  # it was only for the message
        pass
    return None
