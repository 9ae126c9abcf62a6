import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset, VOCDataset
from mmpretrain.datasets import ImageNet
from mmseg.datasets import ADE20KDataset

from slak_mm.toy import TOY_CLASSES, generate_scene

THINGS = [cls for cls in TOY_CLASSES if cls.kind == 'thing']
SCENES = dict(
    seed=st.integers(0, 2**32), index=st.integers(0, 2**31), size=st.tuples(st.integers(32, 96), st.integers(32, 96)))


def same(a, b):
    return np.array_equal(a.image, b.image) and np.array_equal(a.semantic, b.semantic)


def test_scene_depends_on_seed_and_index_only():
    scene = generate_scene(0, 1)
    generate_scene(0, 2)
    assert same(scene, generate_scene(0, 1))
    assert not same(scene, generate_scene(0, 2))
    assert not same(scene, generate_scene(1, 1))


def test_default_scene():
    scene = generate_scene(0, 0)
    assert scene.image.shape == (128, 160, 3) and scene.image.dtype == np.uint8
    assert scene.semantic.shape == (128, 160) and scene.semantic.dtype == np.uint8


@settings(max_examples=40, deadline=None)
@given(**SCENES)
def test_scene_invariants(seed, index, size):
    scene = generate_scene(seed, index, size)
    height, width = size
    assert scene.image.shape == (height, width, 3)
    assert 2 <= len(scene.objects) <= 5

    assert np.sum([obj.mask for obj in scene.objects], axis=0).max() == 1
    expected = np.where(scene.semantic < 3, scene.semantic, 0)
    for obj in scene.objects:
        assert obj.mask.shape == size
        expected[obj.mask] = TOY_CLASSES.index(obj.category)
    np.testing.assert_array_equal(scene.semantic, expected)

    for obj in scene.objects:
        rows, columns = np.nonzero(obj.mask)
        assert obj.bbox == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        (x1, y1), (x2, y2) = obj.polygon.min(axis=0), obj.polygon.max(axis=0)
        assert max(x2 - x1, y2 - y1) <= min(size)
        # A pixel counts when half covered, and the rasteriser grows shapes a little.
        tolerance = 0.75
        assert obj.bbox[0] >= x1 - tolerance and obj.bbox[1] >= y1 - tolerance
        assert obj.bbox[2] <= x2 + tolerance and obj.bbox[3] <= y2 + tolerance


def test_mask_fills_the_polygon_of_an_unobstructed_object():
    for index in range(20):
        obj = generate_scene(0, index).objects[-1]
        x, y = obj.polygon.T
        if min(x.min(), y.min()) < 0 or x.max() > 160 or y.max() > 128:
            continue
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        assert obj.mask.sum() == pytest.approx(area, rel=0.03)


def test_every_class_occurs():
    scenes = [generate_scene(0, index, (32, 32)) for index in range(64)]
    assert set(np.unique([scene.semantic for scene in scenes])) == set(range(len(TOY_CLASSES)))


@pytest.mark.parametrize('arguments', [(-1, 0), (0, -1), (0, 0, (31, 64)), (0, 0, (64, 31))])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match='must'):
        generate_scene(*arguments)


def test_ade20k_names():
    classes = ADE20KDataset.METAINFO['classes']
    assert [classes[cls.ade20k_label - 1] for cls in TOY_CLASSES] == [cls.ade20k for cls in TOY_CLASSES]


def test_voc_and_coco_names():
    assert {cls.voc for cls in THINGS} <= set(VOCDataset.METAINFO['classes'])
    assert {cls.coco for cls in THINGS} <= set(CocoDataset.METAINFO['classes'])
    assert len({cls.voc for cls in THINGS}) == len({cls.coco_id for cls in THINGS}) == 10


def test_imagenet_names():
    classes = ImageNet.METAINFO['classes']
    assert [classes[cls.imagenet_label] for cls in THINGS] == [cls.imagenet for cls in THINGS]
    # ImageNet numbers its classes in the order of their synset ids.
    assert sorted(THINGS, key=lambda cls: cls.wnid) == sorted(THINGS, key=lambda cls: cls.imagenet_label)
