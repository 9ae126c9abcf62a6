"""slak_mm.deploy.Session: numpy in and out, the same as tools/test.py, and neither torch nor OpenMMLab."""
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from versions import needs_torch

from slak_mm.deploy import Session
from slak_mm.deploy.exported import exported_cfg
from slak_mm.errors import InputError
from slak_mm.registry import MODELS, enter_scope

pytestmark = [pytest.mark.slow, needs_torch('2.8')]


def by_the_runner(config, path):
    """RGB image and prediction of the first image of the config's test data, as tools/test.py computes it."""
    cfg = Config.fromfile(config)
    enter_scope(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        item = DATASETS.build(cfg.test_dataloader.dataset)[0]
    sample, = MODELS.build(exported_cfg(cfg, str(path))).test_step(pseudo_collate([item]))
    return cv2.imread(sample.img_path)[..., ::-1], sample


def test_a_classifier(cls, folder):
    image = np.random.RandomState(0).randint(0, 256, (64, 96, 3), np.uint8)
    session = Session(cls)
    session.description['pipeline'] = []  # the shape was given
    found = session(image)
    expected = session.runtime.run(image[..., ::-1].transpose(2, 0, 1)[None])['scores'][0]
    assert np.array_equal(found['scores'], expected) and found['label'] == expected.argmax()
    assert found['scores'].sum() == pytest.approx(1, abs=1e-5)


def test_a_segmentor(seg, folder):
    image, sample = by_the_runner(folder.config('seg'), seg)
    found = Session(seg)(image)
    assert found['labels'].shape == image.shape[:2] and len(np.unique(found['labels'])) > 1
    torch.testing.assert_close(torch.tensor(found['scores']), sample.seg_logits.data, rtol=1e-4, atol=1e-4)
    assert (found['labels'] == sample.pred_sem_seg.data[0].numpy()).mean() > .999


def test_a_detector(det, folder):
    image, sample = by_the_runner(folder.config('det'), det)
    found, expected = Session(det)(image), sample.pred_instances
    assert len(found['boxes']) == len(expected) > 3
    torch.testing.assert_close(torch.tensor(found['boxes']), expected.bboxes, rtol=0, atol=1e-3)
    assert np.array_equal(found['scores'], expected.scores) and np.array_equal(found['labels'], expected.labels)
    assert found['masks'].shape == (len(expected), *image.shape[:2]) and found['masks'].dtype == bool
    assert (found['masks'] == np.asarray(expected.masks)).mean() > .9999


def test_it_imports_neither_torch_nor_openmmlab(seg, folder):
    """In an interpreter in which nobody can."""
    image, sample = by_the_runner(folder.config('seg'), seg)
    np.save(folder.root / 'image.npy', image)
    code = f'''
import sys
sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain']))
import numpy as np
from slak_mm.deploy import Session
session = Session({str(seg)!r})
print(session.description['task'], session(np.load({str(folder.root / 'image.npy')!r}))['labels'].sum())
'''
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.split() == ['segmentation', str(int(Session(seg)(image)['labels'].sum()))], result.stderr


@pytest.mark.parametrize('image', [None, 'image.jpg', np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8),
                                   np.zeros((3, 8, 8), np.uint8)])
def test_what_is_no_image(seg, image):
    with pytest.raises(InputError, match=r'array of uint8 of the shape \(H, W, 3\)'):
        Session(seg)(image)


def test_what_it_does_not_take(seg, cls, tmp_path):
    import onnx
    with pytest.raises(InputError, match='no such file'):
        Session(tmp_path / 'none.onnx')
    with pytest.raises(InputError, match='takes images of 64x96 pixels'):
        Session(cls)(np.zeros((100, 100, 3), np.uint8))
    model = onnx.load(seg)
    known = json.loads(model.metadata_props[0].value)
    for change, message in [(dict(task='features'), 'of a backbone alone'), (dict(pipeline=None), 'steps that need its config'),
                            (dict(version=99), 'is of version 99')]:
        onnx.helper.set_model_props(model, dict(slak_mm=json.dumps(dict(known, **change))))
        onnx.save(model, tmp_path / 'changed.onnx')
        with pytest.raises(InputError, match=message):
            Session(tmp_path / 'changed.onnx')
