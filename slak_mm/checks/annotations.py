"""What mmdet does not say of bad data: it drops objects of an unknown class in silence, and does not name an empty list."""
import os.path as osp
import xml.etree.ElementTree as ET
from typing import Dict, Tuple

from mmengine.fileio import get, list_from_file, load

from ..errors import UserError


class DataError(UserError, ValueError):
    """A data set cannot be used as it is; the message names the file."""


def check_detection_data(dataset: dict) -> None:
    """Reads the annotations of mmdet's CocoDataset or VOCDataset, or of those in a wrapper; any other data set is left alone.

    There must be an image and, to train, an object. Each object must be of one of the data set's own classes (80 or 20), unless
    ``metainfo=dict(classes=...)`` chooses: then others are left out on purpose.

    Args:
        dataset (dict): Config of the data set.

    Raises:
        DataError: There is not, it is not, or a file is not in its format.
        FileNotFoundError: A file of annotations is missing.
    """
    for inner in dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else []):
        check_detection_data(inner)
    name = str(dataset['type']).rpartition('.')[2]
    if name not in _READERS:
        return
    path = osp.join(dataset.get('data_root') or '', dataset['ann_file'])
    num_images, found = _READERS[name](path, dataset)
    if not num_images:
        raise DataError(f'{path}: no image is listed.')

    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        from mmdet.registry import DATASETS
        classes = DATASETS.get(name).METAINFO['classes']
        unknown = sorted(found.keys() - set(classes))
        if unknown:
            raise DataError(f'{found[unknown[0]]}: unknown class {unknown[0]!r}. {name} knows {", ".join(classes)}; '
                            "the data set's metainfo=dict(classes=(...)) chooses others.")
    elif isinstance(classes, str):
        classes = list_from_file(classes)
    if not dataset.get('test_mode') and not found.keys() & set(classes):
        raise DataError(f'{path}: no image shows an object of the classes {", ".join(classes)}.')


def _read_coco(path: str, dataset: dict) -> Tuple[int, Dict[str, str]]:
    """Returns the number of images and, for each class of an object, a file that has one."""
    try:
        content = load(path, file_format='json', backend_args=dataset.get('backend_args'))
        names = {category['id']: category['name'] for category in content['categories']}
        ids = {annotation['category_id'] for annotation in content.get('annotations', [])}
        return len(content['images']), {names.get(id_, f'category_id {id_}'): path for id_ in ids}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f'{path} is not in the format of COCO: {error!r}') from None


def _read_voc(path: str, dataset: dict) -> Tuple[int, Dict[str, str]]:
    """The same."""
    backend_args = dataset.get('backend_args')
    sub_data_root = (dataset.get('data_prefix') or {}).get('sub_data_root', '')
    folder = osp.join(dataset.get('data_root') or '', sub_data_root, dataset.get('ann_subdir', 'Annotations'))
    image_ids = list_from_file(path, backend_args=backend_args)
    found: Dict[str, str] = {}
    for image_id in image_ids:
        file = osp.join(folder, f'{image_id}.xml')
        try:
            root = ET.fromstring(get(file, backend_args=backend_args))
        except ET.ParseError as error:
            raise DataError(f'{file} is not XML: {error}') from None
        found.update({name.text or '': file for name in root.iterfind('object/name')})
    return len(image_ids), found


_READERS = dict(CocoDataset=_read_coco, VOCDataset=_read_voc)
