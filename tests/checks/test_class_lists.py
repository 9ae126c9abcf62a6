"""Lists of classes that are matched by their order, compared by their names."""
import json
import shutil
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from data_helpers import TRAIN_JSON, edit, lines, make
from mmdet.registry import MODELS
from torch import nn

from slak_mm.checks.class_lists import read_categories
from slak_mm.checks.setup import check_trained_classes
from slak_mm.checks.split import Split, heads_of
from slak_mm.errors import InputError

COCO = ('person', 'bicycle', 'car', 'airplane', 'bus', 'boat', 'bottle', 'chair', 'couch', 'tv')
XML = 'VOC2007/Annotations/000002.xml'


@pytest.fixture
def coco(tmp_path):
    return make('coco', tmp_path)


@pytest.fixture
def voc(tmp_path):
    return make('voc', tmp_path)


def name_classes(cfg, classes, *splits):
    for split in splits or ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        (dataset.dataset if 'dataset' in dataset else dataset).metainfo = dict(classes=classes)


def set_heads(cfg, number):
    for head in (*cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = number


def one(cfg, *words):
    """The one error, which has these words."""
    found = lines(cfg)
    assert found and all(word in found[0] for word in words), found
    return found[0]


def test_categories_alone_are_read(tmp_path):
    path = tmp_path / 'a.json'
    categories = [dict(id=7, name='é"categories"'), dict(id=1, name='b')]
    for text in ('{"info": {"categories": 3}, "categories": %s, "annotations": [', '{"a": "\\"categories\\"", "categories" : %s}'):
        path.write_text(text % json.dumps(categories))
        assert read_categories(str(path)) == categories
    path.write_text('{"images": []}')
    with pytest.raises(KeyError):
        read_categories(str(path))


def test_classes_in_another_order_than_the_file(coco):
    name_classes(coco, COCO[::-1])
    one(coco, 'train: ', TRAIN_JSON, 'objects would get the name of another class', "'person', 'bicycle'", "'tv', 'couch'")


def test_a_misspelt_class(coco, voc):
    name_classes(coco, ('persom', *COCO[1:]))
    one(coco, "'persom': 'person' is meant?", 'labels are numbered without it')
    name_classes(coco, (*COCO[:-1], 'tv-set'))
    assert not [line for line in lines(coco) if 'order' in line]  # a class at the end moves no other
    assert any("no class 'tv-set'" in line for line in lines(coco, 'warning'))


def test_a_misspelt_class_of_voc(voc, tmp_path):
    text = (tmp_path / XML).read_text()
    (tmp_path / XML).write_text(text.replace('<name>', '<name>toy '))
    one(voc, XML, "unknown class 'toy ")
    some = ('<object><name>Platelets</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>',
            '<object><name>RBC</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>')
    for number, path in enumerate((tmp_path / XML).parent.iterdir()):
        path.write_text(f'<annotation><size><width>80</width><height>64</height></size>{some[number % 2]}</annotation>')
    voc.model.roi_head.bbox_head.num_classes = 2
    name_classes(voc, ('Platelet', 'RBC'))
    one(voc, XML.rpartition('/')[0], "'Platelet', which no file has; 'Platelets' is meant?")
    name_classes(voc, ('Platelet', 'WBC'))
    one(voc, 'no image shows an object of the classes Platelet, WBC', 'The file has: ', 'Platelets')
    name_classes(voc, ('Platelets', 'RBC'))
    assert lines(voc) == []


def test_other_classes_are_left_out_on_purpose(coco):
    name_classes(coco, ('person', 'bicycle'))
    set_heads(coco, 2)
    assert lines(coco) == []


def test_two_categories_of_one_name(coco, tmp_path):
    for name in (TRAIN_JSON, 'annotations/instances_val2017.json'):
        edit(tmp_path / name, lambda content: content['categories'].insert(0, dict(id=99, name='tv')))
    one(coco, 'another order')


def test_unknown_categories(coco, tmp_path):
    edit(tmp_path / TRAIN_JSON, lambda content: content['annotations'][0].update(category_id=91))
    name_classes(coco, None)
    for split in ('train', 'val', 'test'):
        coco[f'{split}_dataloader'].dataset.pop('metainfo')
    one(coco, TRAIN_JSON, "unknown class 'category_id 91'")


def test_classes_in_upper_case(coco):
    for split in ('train', 'val', 'test'):
        coco[f'{split}_dataloader'].dataset.metainfo = dict(CLASSES=COCO)
    one(coco, 'nothing reads CLASSES')


def test_a_checkpoint_of_another_order():
    dataset = SimpleNamespace(metainfo=dict(classes=('a', 'b')), ann_file='a.json', get_data_info=None)
    split = Split('test', SimpleNamespace(dataset=dataset), nn.Module())
    for classes in (('a', 'b'), ('a', 'c'), (), None):
        check_trained_classes(dict(dataset_meta=dict(classes=classes)), [split], 'w.pth')
    with pytest.raises(InputError, match=r'w.pth was trained with the classes \(b, a\), a.json has them in another order: \(a, b\)'):
        check_trained_classes(dict(dataset_meta=dict(classes=['b', 'a'])), [split], 'w.pth')


def test_a_class_that_is_text(coco):
    name_classes(coco, 'person')
    one(coco, 'classes')


@pytest.mark.parametrize('number', [9, 12])
def test_each_head_of_a_detector(coco, number):
    set_heads(coco, number)
    one(coco, 'the data set has 10 classes', f'roi_head.bbox_head.0 tells {number} apart', 'roi_head.mask_head')


def test_one_head_of_a_detector(coco):
    coco.model.roi_head.mask_head.num_classes = 80
    assert 'bbox_head' not in one(coco, 'roi_head.mask_head.0 tells 80 apart')
    set_heads(coco, 10)
    coco.model.roi_head.bbox_head[2].num_classes = 80
    assert 'mask_head' not in one(coco, 'roi_head.bbox_head.2 tells 80 apart')


def test_heads_of_other_detectors():
    loss = dict(type='CrossEntropyLoss', bg_cls_weight=.1, use_sigmoid=False, loss_weight=1., class_weight=1.)
    head = dict(type='DETRHead', num_classes=7, embed_dims=32, loss_cls=loss)
    model = nn.Module()
    with torch.device('meta'):
        model.bbox_head = MODELS.build(head)
        model.rpn_head = MODELS.build(dict(type='RPNHead', in_channels=8, feat_channels=8))
    assert [(head.name, head.num_classes) for head in heads_of(model)] == [('bbox_head', 7)]


def test_the_heads_of_a_segmentor(tmp_path):
    cfg = make('seg', tmp_path)
    cfg.model.auxiliary_head.num_classes = 2
    one(cfg, 'annotations/training', 'it must be from 0 to 1')
    assert any('auxiliary_head tells 2 apart' in line for line in lines(cfg, 'warning'))


@pytest.fixture
def folders(tmp_path):
    """A classifier of photos in folders, one for each of three classes."""
    cfg = make('cls', tmp_path / 'toy', num_train=9, num_val=6)
    for split in ('train', 'val'):
        for i, path in enumerate(sorted((tmp_path / 'toy' / split).rglob('*.JPEG'))):
            target = tmp_path / 'photos' / split / 'abc'[i % 3]
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / f'{i}.jpg')
        cfg[f'{split}_dataloader'].dataset = dict(
            type='CustomDataset', data_root=str(tmp_path / 'photos' / split), pipeline=cfg[f'{split}_dataloader'].dataset.pipeline)
    cfg.test_dataloader = deepcopy(cfg.val_dataloader)
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 3
    for name in ('val_evaluator', 'test_evaluator'):
        cfg[name] = dict(type='Accuracy', topk=(1, ))
    return cfg


def test_folders(folders, tmp_path):
    assert lines(folders) == []
    folders.train_dataloader.dataset.metainfo = dict(classes=('a', 'c', 'b'))
    one(folders, "folder 'b' has the label of class 'c'")
    folders.train_dataloader.dataset.pop('metainfo')
    shutil.rmtree(tmp_path / 'photos/val/b')
    assert any('other folders' in line and 'same label' in line for line in lines(folders))


def test_a_head_of_too_few_classes(folders):
    folders.model.head.num_classes = 2
    one(folders, 'photos/train', 'has the label 2')


def test_more_of_the_best_than_there_are_classes(folders):
    folders.val_evaluator = dict(type='Accuracy', topk=(1, 5))
    one(folders, 'val: ', 'Accuracy', 'topk=(1, )')


def test_mixed_labels_of_another_number(folders):
    folders.data_preprocessor.num_classes = 4
    one(folders, 'num_classes is 4', 'head tells 3 apart')


def test_validation_in_another_order(coco, tmp_path):
    """Each file agrees with its own list of classes, the two lists do not with each other."""
    edit(tmp_path / 'annotations/instances_val2017.json', lambda content: content['categories'].reverse())
    name_classes(coco, COCO[::-1], 'val', 'test')
    assert any('another order than' in line for line in lines(coco))
