"""Predictions carry the names and colours of the model's own classes, wherever they are written."""
import pytest
import torch
from hostile_helpers import read
from mmengine.registry import DefaultScope

from slak_mm.deploy.predict import build_inferencer, metainfo_of
from slak_mm.models.build import build_model

COLOURS = [[i, 2 * i, 3 * i] for i in range(13)]


def inferencer(name, tmp_path, meta, **changes):
    cfg = read(name, tmp_path)
    cfg.merge_from_dict(changes)
    torch.save(dict(meta=meta, state_dict=build_model(cfg).state_dict()), tmp_path / 'file.pth')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return build_inferencer(cfg, str(tmp_path / 'file.pth'), 'cpu')


@pytest.mark.parametrize('meta, first', [
    ({}, 'wall'), (dict(CLASSES=tuple('abcdefghijklm'), PALETTE=COLOURS), 'a'),
    (dict(dataset_meta=dict(classes=tuple('abcdefghijklm'), palette=COLOURS)), 'a'), (dict(CLASSES=tuple('abcdefghijklm')), 'a')])
def test_of_a_segmentor(tmp_path, meta, first):
    from mmseg.datasets import ADE20KDataset
    found = inferencer('upernet_slak_micro_toy_ade20k', tmp_path, meta).model.dataset_meta
    assert found['classes'][0] == first and len(found['classes']) == len(found['palette']) == 13
    if not meta:
        colours = dict(zip(ADE20KDataset.METAINFO['classes'], ADE20KDataset.METAINFO['palette']))
        assert found['palette'] == [colours[name] for name in found['classes']]
    elif len(str(meta)) > 100:
        assert found['palette'] == COLOURS


@pytest.mark.parametrize('meta, first', [
    ({}, 'person'), (dict(CLASSES=tuple('abcdefghij')), 'a'), (dict(dataset_meta=dict(classes=tuple('abcdefghij'))), 'a')])
def test_of_a_detector(tmp_path, meta, first):
    found = inferencer('cascade_mask_rcnn_slak_micro_toy_coco', tmp_path, meta)
    assert found.model.dataset_meta['classes'][0] == found.visualizer.dataset_meta['classes'][0] == first
    assert len(found.model.dataset_meta['classes']) == 10


@pytest.mark.parametrize('meta, first', [
    ({}, 'cat'), (dict(CLASSES=('a', 'b')), 'a'), (dict(dataset_meta=dict(classes=('a', 'b'))), 'a')])
def test_of_a_classifier(tmp_path, meta, first):
    changes = {'model.head.num_classes': 2, 'test_dataloader.dataset': dict(type='CustomDataset', data_root='', pipeline=[],
                                                                            metainfo=dict(classes=('cat', 'dog')))}
    assert inferencer('slak_t_300e_in1k', tmp_path, meta, **changes).classes[0] == first


def test_of_a_wrapped_data_set(tmp_path):
    cfg = read('upernet_slak_micro_toy_ade20k', tmp_path)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=dict(
        type='BaseSegDataset', metainfo=dict(classes=('x', 'y'))))])
    assert metainfo_of(cfg)['classes'] == ('x', 'y')
