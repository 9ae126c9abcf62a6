"""What OpenMMLab says too late, or without the file's name: images and label maps that cannot be read, or do not fit."""
from typing import Iterator, Optional

import mmcv
import numpy as np
from mmengine.fileio import exists, get
from torch import nn

from .annotations import DataError

SAMPLE = 64  # to read all of ADE20K takes minutes, so of each data set this many, evenly spaced


def read_image(path: str, backend_args: Optional[dict] = None, flag: str = 'color', backend: str = 'pillow') -> np.ndarray:
    """Reads an image whole; mmcv's default, OpenCV, fills up what is missing of one that is cut short.

    Returns:
        np.ndarray: (H, W, 3), or, with ``flag='unchanged'``, (H, W) or (H, W, C) as it is in the file.

    Raises:
        DataError: It is none.
        OSError: The file cannot be opened.
    """
    content = get(path, backend_args=backend_args)
    try:
        image = mmcv.imfrombytes(content, flag=flag, backend=backend)
    except (ValueError, OSError, SyntaxError):  # the latter of a broken PNG
        image = None
    if image is None:
        raise DataError(f'{path} cannot be read as an image: it is cut short or of another format. Copy it again or remove it.')
    return image


def empty(dataset) -> DataError:
    where = getattr(dataset, 'ann_file', '') or getattr(dataset, 'data_prefix', '')
    return DataError(f'{type(dataset).__name__}: no images are found by {where}. Set data_root, data_prefix and ann_file of the data '
                     'set to where they are.')


def classes_of(model: nn.Module) -> Optional[int]:
    """Number of classes of a classifier or a segmentor; None for other models."""
    head = getattr(model, 'decode_head', None) or getattr(model, 'head', None)
    return getattr(head, 'num_classes', None)


def check_images(dataset, num_classes: Optional[int] = None) -> None:
    """Looks for each file of a segmentation data set, and into ``SAMPLE`` files of any data set of OpenMMLab.

    Images must be readable. A label map must be an image of one channel, as large as its image, whose values, after
    ``reduce_zero_label`` and the choice of classes, are classes or ``ignore_index``.

    Args:
        dataset (BaseDataset): As built from a config, or a wrapper of one. Others are left alone.
        num_classes (int, optional): Number of classes of the model. Defaults to None: the data set's.

    Raises:
        DataError: It is empty, or a file is missing or not as above.
        OSError: A file cannot be opened.
    """
    for inner in _unwrap(dataset):
        if not len(inner):
            raise empty(inner)
        if hasattr(inner, 'reduce_zero_label'):
            _check_names(inner)
        for i in np.unique(np.linspace(0, len(inner) - 1, SAMPLE).astype(int)):
            _check_sample(inner, inner.get_data_info(int(i)), num_classes)


def _unwrap(dataset) -> Iterator:
    inner = getattr(dataset, 'datasets', [dataset.dataset] if hasattr(dataset, 'dataset') else None)
    if inner is None:
        yield from [dataset] if hasattr(dataset, 'get_data_info') else []
    for wrapped in inner or ():
        yield from _unwrap(wrapped)


def _load_labels(dataset):
    """The transform by which a segmentation data set reads its label maps, or None."""
    transforms = dataset.pipeline.transforms if hasattr(dataset, 'reduce_zero_label') else ()
    return next((transform for transform in transforms if type(transform).__name__ == 'LoadAnnotations'), None)


def _check_names(dataset) -> None:
    keys = ['img_path', 'seg_map_path'] if _load_labels(dataset) else ['img_path']
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        for key in keys:
            if not exists(info[key], backend_args=dataset.backend_args):
                what = 'the label map of' if key == 'seg_map_path' else 'the image'
                raise DataError(f'{info[key]} is not there: it is {what} {info["img_path"]}. Put it there or fix data_prefix, '
                                'img_suffix and seg_map_suffix of the data set.')


def _check_sample(dataset, info: dict, num_classes: Optional[int]) -> None:
    backend_args = getattr(dataset, 'backend_args', None)
    image = read_image(info['img_path'], backend_args) if 'img_path' in info else None
    label = info.get('gt_label')
    if num_classes and isinstance(label, (int, np.integer)) and not 0 <= label < num_classes:
        raise DataError(f'{info["img_path"]} has the label {label}, but the model has {num_classes} classes: 0 to '
                        f'{num_classes - 1}. Fix the data, or num_classes of the head.')
    load = _load_labels(dataset)
    if load is None or image is None:
        return
    path = info['seg_map_path']
    labels = read_image(path, backend_args, 'unchanged', load.imdecode_backend).squeeze()
    if labels.ndim != 2:
        raise DataError(f'{path} has {labels.shape[-1]} channels: a label map has one, the index of each class. Save the indices, not '
                        'the colours of a palette.')
    if labels.shape != image.shape[:2]:
        raise DataError(f'{path} is {labels.shape[1]}x{labels.shape[0]}, but {info["img_path"]} is {image.shape[1]}x{image.shape[0]}. '
                        'Save the label map in the size of its image.')
    classes = len(dataset.metainfo.get('classes') or ()) or num_classes or 256
    classes = min(classes, num_classes or classes)
    found = set(np.unique(labels)) if labels.max() > 255 else set(np.unique(load(dict(info))['gt_seg_map']))
    wrong = sorted(found - set(range(classes)) - {dataset.ignore_index})
    if wrong:
        raise DataError(f'{path} has the label {wrong[-1]}, after reduce_zero_label={info["reduce_zero_label"]}: it must be from 0 to '
                        f'{classes - 1}, or {dataset.ignore_index} to be ignored. Fix the data, the classes of the data set or '
                        'num_classes of the model.')
