"""Which data sets are looked at, and how far; what is refused is in tests/hostile."""
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import DefaultScope
from mmseg.datasets import ADE20KDataset

from slak_mm.checks import images
from slak_mm.checks.annotations import DataError
from slak_mm.checks.images import check_images, read_image
from slak_mm.toy import ToySpec, write_ade20k


@pytest.fixture
def dataset(tmp_path):
    write_ade20k(tmp_path, ToySpec(num_train=6, num_val=1, size=(32, 40)))
    with DefaultScope.overwrite_default_scope('mmseg'):
        prefix = dict(img_path='images/training', seg_map_path='annotations/training')
        return ADE20KDataset(data_root=str(tmp_path), data_prefix=prefix,
                             pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')])


def spoil(dataset, i):
    path = dataset.get_data_info(i)['img_path']
    with open(path, 'wb'):
        return path


def test_it_looks_into_wrappers(dataset):
    wrapped = RepeatDataset(dataset, times=2), ConcatDataset([dataset, dataset])
    for each in wrapped:
        check_images(each)
    path = spoil(dataset, 0)
    for each in wrapped:
        with pytest.raises(DataError, match=path):
            check_images(each)


def test_other_data_sets_are_left_alone():
    check_images([1, 2, 3])


def test_it_reads_a_sample_from_first_to_last(dataset, monkeypatch):
    monkeypatch.setattr(images, 'SAMPLE', 2)
    seen = []
    monkeypatch.setattr(images, 'read_image', lambda path, *args: seen.append(path) or read_image(path, *args))
    check_images(dataset)
    infos = [dataset.get_data_info(i) for i in (0, 5)]
    assert seen == [info[key] for info in infos for key in ('img_path', 'seg_map_path')]


def test_labels_are_not_read_where_the_pipeline_does_not(dataset, tmp_path):
    dataset.pipeline.transforms.pop()
    for path in (tmp_path / 'annotations/training').iterdir():
        path.unlink()
    check_images(dataset)
