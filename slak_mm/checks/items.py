"""Items of a data set, read and transformed by its own pipeline."""
import random
import warnings
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Iterator, Tuple

import mmcv
import numpy as np
import torch
from mmengine.fileio import get
from PIL import Image

from ..errors import TRACEBACK, UserError, in_one_line
from .findings import DataError
from .split import transforms_of


@contextmanager
def same_random(seed: int = 0) -> Iterator[None]:
    """Within it random numbers are the same each time; afterwards they go on as if nothing had drawn any."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def steps(dataset: Any, i: int) -> Iterator[Tuple[Any, Any]]:
    """What each transform of a data set's pipeline makes of item ``i``.

    Args:
        dataset: Of OpenMMLab; its transforms are called, so give a copy of ``isolate``.
        i (int): Number of the item.

    Yields:
        tuple: The transform and its result; at first None and what the data set has parsed. The last result is None if the pipeline
        drops the item. Of a data set that prepares its items otherwise, there is one step.

    Raises:
        DataError: A transform cannot take the item.
        OSError: A file cannot be opened.
    """
    info = dataset.get_data_info(i)
    transforms = transforms_of(dataset)
    if transforms is None:
        with _naming(info, dataset, False):
            results = dataset.prepare_data(i) if hasattr(dataset, 'prepare_data') else dataset[i]
        yield dataset, results
        return
    yield None, info
    results = info
    for transform in transforms:
        with _naming(dict(info), transform, 'img' not in results):
            results = transform(results)
        yield transform, results
        if results is None:
            return


def results_of(dataset: Any, i: int, seed: int = 0) -> Any:
    """What a data set's pipeline gives of item ``i``; None if it drops it. The errors are those of :func:`steps`."""
    with same_random(seed):
        return list(steps(dataset, i))[-1][1]


@contextmanager
def _naming(info: Any, transform: Any, loads_image: bool) -> Iterator[None]:
    """What is raised inside, is about this item and this transform."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of a user's own transform too
        if isinstance(error, OSError) and error.filename is not None:
            raise
        info = info if isinstance(info, dict) else {}
        path = str(info.get('img_path', 'an item of the data set'))
        if not loads_image and 'Annotation' in type(transform).__name__:
            path = str(info.get('seg_map_path') or path)
        if path != info.get('img_path') or loads_image:
            if not decodes(path, transform):
                raise unreadable(path, transform) from error
        raise DataError(f'{path}: {type(transform).__name__} of the pipeline cannot take it: {in_one_line(error)}. '
                        f'{TRACEBACK}=1 shows where it was raised.') from error


def unreadable(path: str, transform: Any = None) -> DataError:
    """The error about an image that the transform which loads images cannot read. If Pillow can, another decoder is the remedy."""
    text = f'{path} cannot be read as an image'
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(BytesIO(get(path, backend_args=getattr(transform, 'backend_args', None)))) as image:
                image.load()
                decoder = 'tifffile' if image.format == 'TIFF' else 'pillow'
                return DataError(f'{text} by {getattr(transform, "imdecode_backend", "its decoder")}: it is a {image.format} of mode '
                                 f'{image.mode}. Save it as PNG, or set imdecode_backend={decoder!r} in LoadImageFromFile of each '
                                 'pipeline.')
    except Exception:  # it was only for the message
        return DataError(f'{text}: it is cut short or of another format. Copy it again or remove it.')


def decodes(path: str, transform: Any) -> bool:
    """Whether a file is an image for the transform that reads it; True of a transform that reads something else."""
    backend = getattr(transform, 'imdecode_backend', None)
    if backend is None:
        return True
    try:
        content = get(path, backend_args=getattr(transform, 'backend_args', None))
        return mmcv.imfrombytes(content, flag=getattr(transform, 'color_type', 'unchanged'), backend=backend) is not None
    except Exception:  # each decoder has its own
        return False
