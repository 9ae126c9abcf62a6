"""Images in a data set's folder that it leaves out, because of how their names end."""
import os
import os.path as osp
from collections import Counter
from itertools import islice
from typing import Any, Callable, Iterator, Tuple

from mmengine.utils import scandir

from .findings import FINE, WARNING, Finding, listed
from .split import Split, source_of

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.ppm', '.pgm', '.webp', '.gif', '.jp2', '.heic',
                  '.avif')
MOST_NAMES = 200_000  # that are looked at: a second on a disk


def check_left_out(split: Split) -> Iterator[Finding]:
    """Data sets that list a folder take names that end as ``img_suffix`` or ``extensions`` say, and pass over others in silence."""
    for dataset in split.datasets:
        text = describe_left_out(dataset)
        if text:
            yield Finding(WARNING, f'{source_of(dataset)}: {text}')
        elif _rule(dataset):
            yield Finding(FINE, f'{source_of(dataset)}: no image is left out for the end of its name.')


def describe_left_out(dataset: Any) -> str:
    """How many images in its folder a data set leaves out, and what to set; '' if there are none, or it lists no local folder."""
    rule = _rule(dataset)
    if rule is None:
        return ''
    folder, takes, taken = rule
    names = islice(scandir(folder, IMAGE_SUFFIXES, recursive=True, case_sensitive=False), MOST_NAMES)
    left = sorted(name for name in names if not takes(name) and f'{os.sep}.' not in os.sep + name)  # none of hidden folders
    if not left:
        return ''
    ends = [end for end, _ in Counter(osp.splitext(name)[1] for name in left).most_common()]
    if hasattr(dataset, 'extensions'):
        remedy = f'Set extensions=({", ".join(map(repr, (*sorted(dataset.extensions), *sorted({end.lower() for end in ends}))))})'
    else:
        remedy = f'Set img_suffix={ends[0]!r} if they are the images, or give all of them one suffix'
    return (f'{len(left)} images in {folder} are left out, the first is {left[0]}: {type(dataset).__name__} takes {taken} alone, not '
            f'{listed(ends)}. {remedy}; or put them elsewhere.')


def find_remedy(dataset: Any) -> str:
    """What to set if a data set finds no images at all."""
    return describe_left_out(dataset) or 'Set data_root, data_prefix and ann_file of the data set to where they are.'


def _rule(dataset: Any) -> Any:
    """Of a data set that lists a local folder: the folder, whether it takes a name, and what it takes, in words."""
    found: Tuple[Any, Callable[[str], bool], str]
    if osp.isfile(getattr(dataset, 'ann_file', None) or ''):
        return None
    if hasattr(dataset, 'extensions') and hasattr(dataset, 'is_valid_file'):  # mmpretrain's
        found = dataset.img_prefix, dataset.is_valid_file, listed(sorted(dataset.extensions))
    elif str(getattr(dataset, 'img_suffix', '')).startswith('.') and isinstance(dataset.data_prefix, dict):  # mmseg's
        # a suffix with more than a format chooses among others on purpose
        images, labels = (osp.abspath(str(dataset.data_prefix.get(name))) for name in ('img_path', 'seg_map_path'))
        taken = dataset.img_suffix, *[dataset.seg_map_suffix] * f'{labels}/'.startswith(f'{images}/')
        found = dataset.data_prefix.get('img_path'), lambda name: name.endswith(taken), dataset.img_suffix
    else:
        return None
    return found if isinstance(found[0], str) and osp.isdir(found[0]) else None
