"""Images and label maps as the pipeline's own loaders read them."""
import numpy as np
import pytest
from data_helpers import lines, make, repaint
from mmcv.transforms import BaseTransform
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import MODELS, DefaultScope
from mmseg.datasets import ADE20KDataset
from mmseg.registry import TRANSFORMS
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from slak_mm.checks import DataError, Split, enforce, images
from slak_mm.checks.images import check_files, check_items, cut_short
from slak_mm.toy import ToySpec, write_ade20k

TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.fixture
def dataset(tmp_path):
    write_ade20k(tmp_path, ToySpec(num_train=6, num_val=1, size=(32, 40)))
    with DefaultScope.overwrite_default_scope('mmseg'):
        prefix = dict(img_path='images/training', seg_map_path='annotations/training')
        return ADE20KDataset(data_root=str(tmp_path), data_prefix=prefix,
                             pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')])


def test_a_label_map_of_an_image_that_was_resized_before(tmp_path):
    write_ade20k(tmp_path, ToySpec(num_train=1, num_val=1, size=(32, 40)))
    with DefaultScope.overwrite_default_scope('mmseg'):
        pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(80, 64)), dict(type='LoadAnnotations')]
        check(ADE20KDataset(data_root=str(tmp_path), data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
                            pipeline=pipeline))


@pytest.fixture
def seg(tmp_path):
    return make('seg', tmp_path)


def check(dataset):
    split = Split('train', DataLoader(dataset), nn.Module())
    for each in (check_files, check_items):
        enforce(each(split))


def spoil(dataset, i):
    path = dataset.get_data_info(i)['img_path']
    with open(path, 'wb'):
        return path


def own_pipelines(cfg, *load):
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.pipeline = [*load, *(step for step in dataset.pipeline if not step['type'].startswith('Load'))]


def files(root, kind, split='training'):
    return sorted((root / kind / split).iterdir())


def test_it_looks_into_wrappers(dataset):
    wrapped = RepeatDataset(dataset, times=2), ConcatDataset([dataset, dataset])
    for each in wrapped:
        check(each)
    path = spoil(dataset, 0)
    for each in wrapped:
        with pytest.raises(DataError, match=path):
            check(each)


def test_other_data_sets_are_left_alone():
    check([1, 2, 3])


def test_it_reads_a_sample_from_first_to_last(dataset, monkeypatch):
    monkeypatch.setattr(images, 'SAMPLE', 2)
    for i in range(1, 5):
        spoil(dataset, i)
    check(dataset)
    spoil(dataset, 5)
    with pytest.raises(DataError, match='cannot be read as an image'):
        check(dataset)


def test_labels_are_not_read_where_the_pipeline_does_not(dataset, tmp_path):
    dataset.pipeline.transforms.pop()
    for path in files(tmp_path, 'annotations'):
        path.unlink()
    check(dataset)


def test_nothing_of_the_data_set_is_changed(dataset):
    """Neither what its transforms keep, nor random numbers."""

    class Counting(BaseTransform):
        calls = 0

        def transform(self, results):
            self.calls += 1
            np.random.rand()
            return results

    counting = Counting()
    dataset.pipeline.transforms.append(counting)
    state = np.random.get_state()[1].tolist()
    check(dataset)
    assert counting.calls == 0 and np.random.get_state()[1].tolist() == state


def test_a_transform_that_fails(dataset, tmp_path):

    class Fails(BaseTransform):

        def transform(self, results):
            raise NotImplementedError('not this one')

    dataset.pipeline.transforms.append(Fails())
    with pytest.raises(DataError, match='00000001.jpg: Fails of the pipeline cannot take it: NotImplementedError: not this one'):
        check(dataset)


def test_a_pipeline_that_drops_everything(dataset):

    class Drops(BaseTransform):

        def transform(self, results):
            return None

    dataset.pipeline.transforms.append(Drops())
    with pytest.raises(DataError, match='drops each of the 6 items'):
        check(dataset)


def two_classes(cfg, tmp_path, paint):
    for split in ('training', 'validation'):
        for path in files(tmp_path, 'annotations', split):
            repaint(path, paint)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.update(type='BaseSegDataset', reduce_zero_label=False, img_suffix='.jpg', seg_map_suffix='.png',
                       metainfo=dict(classes=('background', 'thing'), palette=[[0, 0, 0], [255, 0, 0]]))
        for step in dataset.pipeline:
            if step['type'] == 'LoadAnnotations':
                step.update(reduce_zero_label=False)
    cfg.model.decode_head.num_classes = cfg.model.auxiliary_head.num_classes = 2
    return cfg


def test_label_maps_of_0_and_255(seg, tmp_path):
    cfg = two_classes(seg, tmp_path, lambda labels: ((labels > 3) * 255).astype(np.uint8))
    assert 'annotations/training' in lines(cfg)[0] and "only class 0 ('background') occurs" in lines(cfg)[0]
    assert '0 and 255' in lines(cfg)[0]
    assert lines(two_classes(seg, tmp_path, lambda labels: (labels > 0).astype(np.uint8))) == []


@pytest.mark.parametrize('value, level, words', [(255, 'error', 'no class occurs'), (0, 'warning', "1 of 2 classes: thing"),
                                                 (1, 'warning', '1 of 2 classes: background')])
def test_label_maps_of_one_value(seg, tmp_path, value, level, words):
    cfg = two_classes(seg, tmp_path, lambda labels: np.full_like(labels, value))
    assert any(words in line for line in lines(cfg, level))
    assert level == 'error' or lines(cfg) == []


def test_zero_and_one_with_reduce_zero_label(seg, tmp_path):
    cfg = two_classes(seg, tmp_path, lambda labels: (labels > 3).astype(np.uint8))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.reduce_zero_label = True
    assert 'reduce_zero_label' in lines(cfg)[0]  # the pipeline has another
    own_pipelines(cfg, dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True))
    assert "only class 0 ('background') occurs, and 255" in lines(cfg)[0]


def test_a_void_label_that_the_metric_counts(seg, tmp_path):
    cfg = two_classes(seg, tmp_path, lambda labels: np.minimum(labels, 2))
    assert 'has the label 2' in lines(cfg)[0]
    cfg.model.decode_head.ignore_index = cfg.model.auxiliary_head.ignore_index = 2
    assert 'IoUMetric ignores 255' in lines(cfg)[0] and 'val_evaluator.ignore_index=2' in lines(cfg)[0]
    cfg.val_evaluator.ignore_index = cfg.test_evaluator.ignore_index = 2
    assert lines(cfg) == []
    own_pipelines(cfg, dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=False))
    cfg.model.data_preprocessor.size = (256, 256)
    assert 'seg_pad_val=2' in lines(cfg)[0]


def test_labels_of_16_bits_that_would_wrap(seg, tmp_path):
    repaint(files(tmp_path, 'annotations')[0], lambda labels: (labels.astype(np.uint16) + 256))
    assert 'has the label 3' in lines(seg)[0]  # ADE20K's sofa, 23, and so on: above 255


def test_exif_that_the_pipeline_ignores(seg, tmp_path):
    for split in ('training', 'validation'):
        for path in files(tmp_path, 'images', split):
            repaint(path, lambda pixels: pixels, exif=TURNED)
    assert 'EXIF' in lines(seg)[0] and 'is 80x64, but' in lines(seg)[0] and 'color_ignore_orientation' in lines(seg)[0]
    own_pipelines(seg, dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
                  dict(type='LoadAnnotations', reduce_zero_label=True))
    assert lines(seg) == []


def test_exif_that_does_not_show_in_the_size(seg, tmp_path):
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    path = files(tmp_path, 'images')[0]
    repaint(path, lambda pixels: pixels, exif=upside_down)
    assert lines(seg) == [] and any(f'the first is {path}' in line for line in lines(seg, 'warning'))
    own_pipelines(seg, dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
                  dict(type='LoadAnnotations', reduce_zero_label=True))
    assert not any('EXIF' in line for line in lines(seg, 'warning'))


def test_exif_that_the_pipeline_obeys(seg, tmp_path):
    for split in ('training', 'validation'):
        for image, labels in zip(files(tmp_path, 'images', split), files(tmp_path, 'annotations', split)):
            repaint(image, lambda pixels: pixels, exif=TURNED)
            repaint(labels, lambda values: np.rot90(values, -1))
    assert lines(seg) == []


def test_boxes_of_the_stored_pixels_of_a_turned_photo(tmp_path):
    cfg = make('coco', tmp_path)
    path = sorted((tmp_path / 'train2017').iterdir())[0]
    repaint(path, lambda pixels: pixels, exif=TURNED)
    assert str(path) in lines(cfg)[0] and 'EXIF' in lines(cfg)[0]
    repaint(path, lambda pixels: pixels[:32, :40])
    assert lines(cfg) == [] and any('is 40x32' in line for line in lines(cfg, 'warning'))


def test_arrays(seg, tmp_path):
    """Images and label maps in .npy files, read by transforms of the user's own."""

    @TRANSFORMS.register_module(name='LoadNpy', force=True)
    class LoadNpy(BaseTransform):

        def transform(self, results):
            results['img'] = np.load(results['img_path'])
            results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
            results['gt_seg_map'] = np.load(results['seg_map_path'])
            results['seg_fields'].append('gt_seg_map')
            return results

    for split in ('training', 'validation'):
        for image, labels in zip(files(tmp_path, 'images', split), files(tmp_path, 'annotations', split)):
            pixels = np.array(Image.open(image)).astype(np.float32)
            np.save(image.with_suffix('.npy'), np.concatenate([pixels, pixels[..., :2]], -1))
            np.save(labels.with_suffix('.npy'), np.clip(np.array(Image.open(labels)).astype(np.int64), 1, 13) - 1)
    for split in ('train', 'val', 'test'):
        seg[f'{split}_dataloader'].dataset.update(img_suffix='.npy', seg_map_suffix='.npy', type='BaseSegDataset')
    own_pipelines(seg, dict(type='LoadNpy'))
    seg.model.data_preprocessor.update(mean=[0] * 5, std=[1] * 5, bgr_to_rgb=False)
    try:
        MODELS.build(dict(seg.model.data_preprocessor, _scope_='mmseg'))
    except AssertionError as error:
        pytest.skip(f'the fork of mmsegmentation takes such images no more: {error}')
    try:
        assert 'images have 5 channels' in lines(seg)[0] and 'in_channels=5' in lines(seg)[0]
        seg.model.backbone.in_channels = 5
        assert lines(seg) == []
    finally:
        TRANSFORMS.module_dict.pop('LoadNpy')


@pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
def test_cut_short(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(path)
    assert not cut_short(str(path))
    path.write_bytes(path.read_bytes()[:3000])
    assert cut_short(str(path))


def test_what_pillow_cannot_judge_is_not_cut_short(tmp_path, monkeypatch):
    (tmp_path / 'a.npy').write_bytes(b'12345')
    assert not cut_short(str(tmp_path / 'a.npy'))
    Image.new('L', (40, 40)).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert not cut_short(str(tmp_path / 'a.png'))
