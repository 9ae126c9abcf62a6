"""Bad data ends with an error that names the file: by our check, or by mmdet where it does so itself."""
import json
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import pytest
from mmengine import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from slak_mm.checks.annotations import DataError, check_detection_data
from slak_mm.toy import ToySpec, write_coco, write_voc07

CONFIGS = Path(__file__).parents[2] / 'configs'
JSON, LIST, XML = 'annotations/instances_train2017.json', 'VOC2007/ImageSets/Main/trainval.txt', 'VOC2007/Annotations/000002.xml'


@pytest.fixture
def coco(tmp_path):
    return make(tmp_path, write_coco, 'cascade_mask_rcnn_slak_t_1x_coco.py')


@pytest.fixture
def voc(tmp_path):
    return make(tmp_path, write_voc07, 'faster_rcnn_slak_t_36e_voc07.py')


@lru_cache(maxsize=None)
def read(config):
    return Config.fromfile(CONFIGS / config)


def make(root, write, config):
    """The config's training data set, on toy data."""
    write(root, ToySpec(num_train=3, num_val=1, size=(32, 40)))
    dataset = deepcopy(read(config).train_dataloader.dataset)
    dataset.data_root = str(root)
    return dataset


def edit(dataset, **changes):
    path = Path(dataset.data_root) / JSON
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace(dataset, file, old, new):
    path = Path(dataset.data_root) / file
    path.write_text(path.read_text().replace(old, new))


def refused(dataset, file, *words):
    with pytest.raises(DataError) as error:
        check_detection_data(dataset)
    assert all(word in str(error.value) for word in (str(Path(dataset.data_root) / file), *words))


def test_good_data_pass(coco, voc):
    check_detection_data(coco)
    check_detection_data(voc)
    check_detection_data(dict(type='SomeOtherDataset'))


def test_unknown_class(coco, voc):
    replace(voc, XML, '<name>', '<name>toy ')
    refused(voc, XML, "unknown class 'toy ", 'aeroplane, bicycle')
    annotations = json.loads((Path(coco.data_root) / JSON).read_text())['annotations']
    edit(coco, annotations=[*annotations, dict(annotations[0], category_id=91)])
    refused(coco, JSON, "unknown class 'category_id 91'")


def test_it_looks_into_wrappers(voc):
    replace(voc, XML, '<name>', '<name>toy ')
    with pytest.raises(DataError, match='unknown class'):
        check_detection_data(dict(type='RepeatDataset', times=2, dataset=dict(type='mmdet.ConcatDataset', datasets=[voc])))


def test_a_class_that_is_renamed(coco):
    replace(coco, JSON, '"tv"', '"television"')
    replace(coco, JSON, '"person"', '"human"')
    refused(coco, JSON, 'unknown class')


def test_other_classes_are_left_out_on_purpose(coco, voc):
    for dataset in (coco, voc):
        dataset.metainfo = dict(classes=('person', 'bicycle', 'car', 'bus', 'boat', 'bottle', 'chair', 'sofa', 'couch', 'toy'))
        check_detection_data(dataset)
        dataset.metainfo = dict(classes=('toy', ))
    refused(coco, JSON, 'no image shows an object of the classes toy')
    refused(voc, LIST, 'no image shows an object of the classes toy')


def test_empty_list(coco, voc):
    edit(coco, images=[], annotations=[])
    refused(coco, JSON, 'no image is listed')
    (Path(voc.data_root) / LIST).write_text('')
    refused(voc, LIST, 'no image is listed')


def test_images_without_objects_do_for_a_test_only(coco):
    edit(coco, annotations=[])
    refused(coco, JSON, 'no image shows an object')
    check_detection_data(dict(coco, test_mode=True))


def test_files_that_are_not_in_their_format(coco, voc):
    (Path(voc.data_root) / XML).write_text('<annotation>')
    refused(voc, XML, 'is not XML')
    for text in ('{"images": [', '[]', '{"images": []}'):
        (Path(coco.data_root) / JSON).write_text(text)
        refused(coco, JSON, 'is not in the format of COCO')


@pytest.mark.parametrize('file', [LIST, XML])
def test_missing_annotations(voc, file):
    (Path(voc.data_root) / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        check_detection_data(voc)


def test_mmdet_names_a_missing_image(coco, voc):
    for dataset, file in ((coco, 'train2017/000000000002.jpg'), (voc, 'VOC2007/JPEGImages/000002.jpg')):
        (Path(dataset.data_root) / file).unlink()
        check_detection_data(dataset)
        loader = dict(dataset=dataset, batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
        with DefaultScope.overwrite_default_scope('mmdet'), pytest.raises(FileNotFoundError, match=file):
            next(iter(Runner.build_dataloader(loader)))
