"""Boxes, masks and labels as a data set of any type has parsed them."""
import pytest
from data_helpers import TRAIN_JSON, edit, lines, make
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS

from slak_mm.checks.instances import gather

XML = 'VOC2007/Annotations/000002.xml'
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
END = [dict(type='Resize', scale=(80, 64), keep_ratio=True), dict(type='PackDetInputs')]


@pytest.fixture
def coco(tmp_path):
    return make('coco', tmp_path)


@pytest.fixture
def voc(tmp_path):
    cfg = make('voc', tmp_path)
    dataset = cfg.train_dataloader.dataset
    (dataset.dataset if 'dataset' in dataset else dataset).pipeline = [*LOAD, *END]
    return cfg


@pytest.fixture
def own():
    """A data set of the user's own class: one image, with the boxes that are given."""

    @DATASETS.register_module(name='Own', force=True)
    class Own(BaseDetDataset):
        METAINFO = dict(classes=('a', 'b'))

        def __init__(self, boxes, image, labels=None, ignored=None, **kwargs):
            self.boxes, self.image, self.labels, self.ignored = boxes, image, labels or [0, 1] * 9, ignored or [0] * 9
            super().__init__(**kwargs)

        def load_data_list(self):
            instances = [dict(bbox=box, bbox_label=label, ignore_flag=ignored)
                         for box, label, ignored in zip(self.boxes, self.labels, self.ignored)]
            return [dict(img_path=self.image, img_id=7, height=64, width=80, instances=instances)]

    yield Own
    DATASETS.module_dict.pop('Own')


def use(cfg, tmp_path, boxes, pipeline=(*LOAD, *END), **kwargs):
    image = next(tmp_path.rglob('*.jpg'))
    cfg.train_dataloader.dataset = dict(type='Own', boxes=boxes, image=str(image), pipeline=list(pipeline), **kwargs)
    cfg.model.roi_head.bbox_head.num_classes = 2
    return cfg


def train_lines(cfg, level='error'):
    return [line for line in lines(cfg, level) if line.startswith('train: ')]


def squash(path, **changes):
    text = path.read_text()
    for key, value in changes.items():
        before, _, rest = text.partition(f'<{key}>')
        text = f'{before}<{key}>{value}</{key}>{rest.partition(f"</{key}>")[2]}'
    path.write_text(text)


def test_good_boxes(coco, voc, own, tmp_path):
    assert train_lines(coco) == train_lines(voc) == []
    assert train_lines(use(voc, tmp_path, [[1, 1, 9, 9], [-5, -5, 200, 200]])) == []  # beyond the border: it is clipped


@pytest.mark.parametrize('box, words', [
    ([9, 9, 9, 20], 'has no area'),
    ([9, 9, 20, 5], 'has no area'),
    ([9, 9, float('nan'), 20], 'has no area'),
    ([100, 9, 120, 20], 'lies outside its image of 80x64'),
    ([9, -20, 20, -5], 'lies outside its image'),
])
def test_bad_boxes(voc, own, tmp_path, box, words):
    cfg = use(voc, tmp_path, [[1, 1, 9, 9], box])
    line, = train_lines(cfg)
    assert words in line and '.jpg' in line and "class 'b'" in line and 'min_gt_bbox_wh' in line


def test_bad_boxes_that_the_pipeline_or_the_data_set_takes_away(voc, own, tmp_path):
    boxes = [[1, 1, 9, 9], [9, 9, 9, 20]]
    keep = dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1))
    assert train_lines(use(voc, tmp_path, boxes, [*LOAD, keep, *END])) == []
    assert train_lines(use(voc, tmp_path, boxes, ignored=[0, 1])) == []


def test_a_box_of_size_zero_in_voc(voc, tmp_path):
    squash(tmp_path / XML, xmin=9, xmax=9)
    line, = train_lines(voc)
    assert XML in line and 'has no area' in line and 'bbox_min_size=1' in line
    dataset = voc.train_dataloader.dataset
    (dataset.dataset if 'dataset' in dataset else dataset).filter_cfg = dict(bbox_min_size=1)
    assert train_lines(voc) == []


def test_labels_that_the_model_does_not_know(voc, own, tmp_path):
    line, = train_lines(use(voc, tmp_path, [[1, 1, 9, 9], [2, 2, 8, 8]], labels=[0, 2]))
    assert '.jpg has the label 2' in line and '0 to 1' in line
    assert 'has the label -1' in train_lines(use(voc, tmp_path, [[1, 1, 9, 9]], labels=[-1]))[0]


def test_a_class_that_no_object_has(voc, own, tmp_path):
    assert any('nothing is of 1 of 2 classes, b.' in line for line in train_lines(use(voc, tmp_path, [[1, 1, 9, 9]]), 'warning'))


def test_a_class_that_one_of_two_data_sets_has(voc, own, tmp_path):
    first = use(voc, tmp_path, [[1, 1, 9, 9]]).train_dataloader.dataset
    voc.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[first, dict(first, labels=[1])])
    assert not any('nothing is of' in line for line in train_lines(voc, 'warning')) and train_lines(voc) == []


def test_images_without_objects(coco, tmp_path):
    edit(tmp_path / TRAIN_JSON, lambda content: content.update(annotations=[]))
    assert 'no image shows an object of the classes person' in train_lines(coco)[0]
    coco.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=False)
    assert train_lines(coco) == [] and any('no image shows an object' in line for line in train_lines(coco, 'warning'))


def test_annotations_that_mmdet_leaves_out(coco, tmp_path):
    def flatten(content, number=None):
        for annotation in content['annotations'][:number]:
            annotation['area'] = 0

    edit(tmp_path / TRAIN_JSON, lambda content: flatten(content, 1))
    assert train_lines(coco) == [] and any('leaves out 1 of 16 objects' in line for line in train_lines(coco, 'warning'))
    edit(tmp_path / TRAIN_JSON, flatten)
    assert 'leaves out 16 of 16 objects' in train_lines(coco)[0]


def spoil(path, number, **changes):
    def change(content):
        for key, value in changes.items():
            content['annotations'][number].pop(key)
            if value is not None:
                content['annotations'][number][key] = value
        changed.append(content['annotations'][number]['id'])

    changed = []
    edit(path, change)
    return changed[0]


@pytest.mark.parametrize('segmentation', [None, []])
def test_an_object_without_a_mask(coco, tmp_path, segmentation):
    number = spoil(tmp_path / TRAIN_JSON, -1, segmentation=segmentation)
    line, = train_lines(coco)
    assert f'annotation {number} of {tmp_path / TRAIN_JSON}' in line and 'with_mask=True' in line and '1 of ' in line
    coco.train_dataloader.dataset.pipeline = [*LOAD, *END]
    assert train_lines(coco) == []


def test_forms_of_masks(coco, tmp_path):
    counts = dict(size=[64, 80], counts=[100, 20, 64 * 80 - 120])
    spoil(tmp_path / TRAIN_JSON, 0, segmentation=counts)
    assert train_lines(coco) == []
    number = spoil(tmp_path / TRAIN_JSON, 1, segmentation=[[1, 1, 9, 9]])
    spoil(tmp_path / TRAIN_JSON, 2, segmentation=[[1, 1, 9, 9, 5, 5, 1]])
    assert train_lines(coco) == []
    warning = next(line for line in train_lines(coco, 'warning') if 'polygon' in line)
    assert '2 of ' in warning and f'annotation {number} of' in warning


def test_annotations_that_lack_something(coco, tmp_path):
    spoil(tmp_path / TRAIN_JSON, 0, area=None)
    line, = train_lines(coco)
    assert str(tmp_path / TRAIN_JSON) in line and 'area' in line


def test_gather(own):
    found = gather(own([[1, 1, 9, 9]] * 3, 'none.jpg'))
    assert found.boxes.shape == (3, 4) and found.labels.tolist() == [0, 1, 0] and found.sizes.tolist() == [[80, 64]] * 3
