import runpy
from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets import CocoDataset, VOCDataset
from mmengine.fileio import list_from_file
from mmpretrain.datasets import ImageNet
from mmseg.datasets import ADE20KDataset
from PIL import Image
from pycocotools.coco import COCO

from slak_mm.toy import LAYOUTS, TOY_CLASSES, ToySpec

TOOL = Path(__file__).parents[2] / 'tools' / 'make_toy_data.py'
SPEC = ToySpec(num_train=5, num_val=3, seed=7, size=(64, 80))
NUM = dict(train=5, val=3)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """Layout name -> data_root with the scenes of SPEC."""
    folders = {name: tmp_path_factory.mktemp(name) for name in LAYOUTS}
    for name, write in LAYOUTS.items():
        write(folders[name], SPEC)
    return folders


def scenes(split):
    return [scene for _, scene in SPEC.scenes(split)]


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.mark.parametrize('name', LAYOUTS)
def test_bytes_depend_on_the_spec_only(roots, tmp_path, name):
    write = LAYOUTS[name]
    write(tmp_path / 'same', SPEC)
    assert files(tmp_path / 'same') == files(roots[name])
    write(tmp_path / 'other', ToySpec(num_train=5, num_val=3, seed=8, size=(64, 80)))
    images = {data for path, data in files(tmp_path / 'other').items() if path.suffix.lower() in ('.jpg', '.jpeg')}
    assert images and images.isdisjoint(files(roots[name]).values())


def test_scenes_do_not_depend_on_the_count():
    few, many = ToySpec(1, 1, size=(32, 32)), ToySpec(2, 3, size=(32, 32))
    for split in ('train', 'val'):
        (number, scene), (number_of_many, scene_of_many) = next(few.scenes(split)), next(many.scenes(split))
        assert number == number_of_many == 1
        np.testing.assert_array_equal(scene.image, scene_of_many.image)


def test_layouts_show_the_same_scenes(roots):
    for split, folder, number in (('train', 'training', 1), ('val', 'validation', 6)):
        ade20k = roots['ade20k'] / f'images/{folder}/ADE_{split}_00000001.jpg'
        coco = roots['coco'] / f'{split}2017/{number:012d}.jpg'
        voc = roots['voc07'] / f'VOC2007/JPEGImages/{number:06d}.jpg'
        assert ade20k.read_bytes() == coco.read_bytes() == voc.read_bytes()


def test_jpegs_are_close_to_the_scenes(roots):
    for number, scene in SPEC.scenes('train'):
        image = np.asarray(Image.open(roots['coco'] / f'train2017/{number:012d}.jpg'))
        assert np.abs(image.astype(float) - scene.image).mean() < 4


@pytest.mark.parametrize('split, folder', [('train', 'training'), ('val', 'validation')])
def test_mmseg_loads_ade20k(roots, split, folder):
    dataset = ADE20KDataset(
        data_root=str(roots['ade20k']),
        data_prefix=dict(img_path=f'images/{folder}', seg_map_path=f'annotations/{folder}'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations', reduce_zero_label=True)])
    assert len(dataset) == NUM[split]
    for sample, scene in zip(dataset, scenes(split)):
        assert sample['img'].shape == (64, 80, 3)
        labels = sample['gt_seg_map']
        names = np.array([cls.ade20k for cls in TOY_CLASSES])[scene.semantic]
        assert (np.array(dataset.METAINFO['classes'])[labels[1:-1, 1:-1]] == names[1:-1, 1:-1]).all()
        labels[1:-1, 1:-1] = 255
        assert (labels == 255).all()


def test_ade20k_annotations_are_single_channel(roots):
    annotation = Image.open(roots['ade20k'] / 'annotations/training/ADE_train_00000001.png')
    assert annotation.mode == 'L' and annotation.size == (80, 64)


@pytest.mark.parametrize('subset, split', [('trainval', 'train'), ('test', 'val')])
def test_mmdet_loads_voc(roots, subset, split):
    dataset = VOCDataset(
        data_root=str(roots['voc07']),
        ann_file=f'VOC2007/ImageSets/Main/{subset}.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)])
    assert dataset.metainfo['dataset_type'] == 'VOC2007'
    assert len(dataset) == NUM[split]
    for sample, scene in zip(dataset, scenes(split)):
        assert sample['img_shape'] == (64, 80)
        # mmdet takes the 1-based, inclusive corners of VOC to 0-based, inclusive ones.
        boxes = np.array([obj.bbox for obj in scene.objects]) - (0, 0, 1, 1)
        np.testing.assert_array_equal(sample['gt_bboxes'].numpy(), boxes)
        names = [dataset.metainfo['classes'][label] for label in sample['gt_bboxes_labels']]
        assert names == [obj.category.voc for obj in scene.objects]
        assert not sample['gt_ignore_flags'].any()


def test_voc_subsets(roots):
    folder = roots['voc07'] / 'VOC2007/ImageSets/Main'
    subsets = {name: list_from_file(folder / f'{name}.txt') for name in ('trainval', 'train', 'val', 'test')}
    assert subsets['trainval'] == sorted(subsets['train'] + subsets['val'])
    assert subsets['test'] == ['000006', '000007', '000008']


@pytest.mark.parametrize('split', ['train', 'val'])
def test_mmdet_loads_coco(roots, split):
    dataset = CocoDataset(
        data_root=str(roots['coco']),
        ann_file=f'annotations/instances_{split}2017.json',
        data_prefix=dict(img=f'{split}2017/'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)])
    assert len(dataset) == NUM[split]
    for sample, scene in zip(dataset, scenes(split)):
        np.testing.assert_array_equal(sample['gt_bboxes'].numpy(), [obj.bbox for obj in scene.objects])
        np.testing.assert_array_equal(sample['gt_masks'].to_ndarray(), [obj.mask for obj in scene.objects])
        names = [dataset.metainfo['classes'][label] for label in sample['gt_bboxes_labels']]
        assert names == [obj.category.coco for obj in scene.objects]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_pycocotools_loads_coco(roots, split):
    coco = COCO(roots['coco'] / f'annotations/instances_{split}2017.json')
    categories = coco.loadCats(coco.getCatIds())
    assert [category['name'] for category in categories] == list(CocoDataset.METAINFO['classes'])
    # The ids of the 91 categories of the COCO paper that have no annotation are left out.
    assert coco.getCatIds() == sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
    assert {category['id']: category['name'] for category in categories}.items() >= {
        cls.coco_id: cls.coco for cls in TOY_CLASSES if cls.kind == 'thing'}.items()

    for image_id, scene in zip(coco.getImgIds(), scenes(split)):
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert len(annotations) == len(scene.objects)
        for annotation, obj in zip(annotations, scene.objects):
            np.testing.assert_array_equal(coco.annToMask(annotation), obj.mask)
            assert annotation['area'] == obj.mask.sum()
            assert annotation['category_id'] == obj.category.coco_id


@pytest.mark.parametrize('split', ['train', 'val'])
def test_mmpretrain_loads_imagenet(roots, split):
    dataset = ImageNet(data_root=str(roots['imagenet']), split=split, pipeline=[dict(type='LoadImageFromFile')])
    assert len(dataset) == NUM[split] and len(dataset.CLASSES) == 1000
    for sample, scene in zip(dataset, scenes(split)):
        largest = max(scene.objects, key=lambda obj: obj.mask.sum())
        assert sample['gt_label'] == largest.category.imagenet_label
        x1, y1, x2, y2 = largest.bbox
        height, width = sample['img'].shape[:2]
        assert y2 - y1 <= height <= 1.5 * (y2 - y1) and x2 - x1 <= width <= 1.5 * (x2 - x1)


@pytest.mark.parametrize('changes', [dict(num_train=0), dict(num_val=0), dict(num_train=10**6 + 1), dict(seed=-1),
                                     dict(size=(31, 32))])
def test_wrong_spec(changes):
    with pytest.raises(ValueError, match='must|needs'):
        ToySpec(**changes)


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    return runpy.run_path(str(TOOL))['main']


def test_tool(tool, tmp_path, roots, capsys):
    arguments = f'coco {tmp_path}/out --seed 7 --num-train 5 --num-val 3 --size 64 80'.split()
    tool(arguments)
    assert files(tmp_path / 'out') == files(roots['coco'])
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert f'data_root={tmp_path}/out' in last_line and '--cfg-options' in last_line

    with pytest.raises(SystemExit) as refusal:
        tool(arguments)
    assert refusal.value.code != 0 and 'is not empty' in capsys.readouterr().err
    tool([*arguments, '--force'])


def test_tool_reports_a_wrong_spec(tool, tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        tool(['coco', str(tmp_path), '--size', '16', '16'])
    assert refusal.value.code != 0 and 'size must be at least 32' in capsys.readouterr().err
