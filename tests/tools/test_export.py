"""tools/export.py, and tools/test.py and tools/predict.py with what it writes, on micro models and toy data. Each is exported once."""
import collections
import json
import os
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmengine import Config
from mmengine.dataset import pseudo_collate
from PIL import Image
from versions import needs_torch

from slak_mm.errors import InputError, UserError
from slak_mm.models.build import build_model

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, needs_torch('2.8')]


def load(config):
    model = build_model(Config.fromfile(config)).eval()
    model.load_state_dict(torch.load(config.with_suffix('.pth'), weights_only=True)['state_dict'])
    return model


@torch.no_grad()
def test_a_classifier(folder, tool, cls, capfd):
    for batch in (1, 3):
        images = torch.randint(0, 256, (batch, 3, 64, 96), dtype=torch.uint8)
        scores, = onnxruntime.InferenceSession(str(cls)).run(None, dict(images=images.numpy()))
        expected = load(folder.config('cls')).test_step(dict(inputs=[*images], data_samples=None))
        np.testing.assert_allclose(scores, np.stack([sample.pred_score for sample in expected]), rtol=0, atol=1e-6)

    proto = onnx.load(cls)
    assert [path.name for path in cls.parent.iterdir()] == ['cls.onnx'] and str(ROOT).encode() not in cls.read_bytes()
    counts = collections.Counter(node.op_type for node in proto.graph.node)
    assert (counts['Conv'], counts['Gelu'], counts['LayerNormalization']) == (4 + 2 * 4 - 1, 4, 4 + 4 + 1)
    # Pad and Slice: 16 channels for the depthwise kernels, the true ones for the norms; the last three are the pre-processing
    assert counts.keys() == {'Conv', 'Add', 'Transpose', 'LayerNormalization', 'MatMul', 'Gelu', 'Mul', 'ReduceMean', 'Reshape',
                             'Gemm', 'Softmax', 'Pad', 'Slice', 'Cast', 'Sub', 'Div'}
    # the maps are 16x24, 8x12, 4x6 and 2x3, on which both stripes of the last block reach equally far and are one
    kernels = {tuple(weight.dims[2:]) for weight in proto.graph.initializer if weight.dims[1:2] == [1]}
    assert kernels == {(31, 5), (5, 47), (15, 5), (5, 23), (7, 5), (5, 11), (3, 5)}
    assert {weight.dims[0] for weight in proto.graph.initializer if weight.dims[1:2] == [1]} == {16, 32}


def test_what_a_file_says_of_itself(cls):
    said = json.loads({item.key: item.value for item in onnx.load(cls).metadata_props}['slak_mm'])
    classes = said.pop('classes')
    assert len(classes) == 1000 and classes[0] == 'tench, Tinca tinca'
    assert said == dict(
        version=1, task='classification', model='ImageClassifier', palette=None, outputs=['scores'],
        input=dict(name='images', channels=3, dtype='uint8', size=[64, 96], min_size=[32, 32], batch=None),
        preprocess=dict(inside=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], swap=True, divisor=1, pad_value=0.),
        load=dict(color_type='color', backend='cv2'),
        pipeline=[dict(op='resize_edge', edge='short', size=64, interpolation='bicubic', backend='pillow'),
                  dict(op='center_crop', size=[64, 64])])


def metrics(folder):
    return json.loads(max((folder.root / 'work').glob('*/*.json'), key=lambda path: path.stat().st_mtime_ns).read_text())


def test_a_segmentor_by_windows_of_any_number(folder, tool, seg, capfd):
    results = {}
    for weights in (folder.root / 'seg.pth', seg):
        tool('test', folder.config('seg'), weights, '--quiet', '--out', folder.root / f'{weights.name}.pkl')
        results[weights.name] = metrics(folder)['mIoU'], pickle.loads((folder.root / f'{weights.name}.pkl').read_bytes())
    (miou, expected), (ours, actual) = results.values()
    assert ours == miou and len(expected) == 2
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one['seg_logits']['data'], other['seg_logits']['data'], rtol=0, atol=1e-4)

    Image.open(next((folder.root / 'ade').rglob('*.jpg'))).save(folder.root / 'image.png')
    for weights in (folder.root / 'seg.pth', seg):
        out = folder.root / weights.suffix
        tool('predict', folder.root / 'image.png', folder.config('seg'), weights, '--out', out, '--device', 'cpu')
    one, other = (np.asarray(Image.open(folder.root / suffix / 'pred/image_pred.png')) for suffix in ('.pth', '.onnx'))
    assert one.shape == (64, 80) and (one == other).mean() > .999


def test_a_detector_in_both_runtimes(folder, tool, det, capfd):
    """tools/export.py has compared onnxruntime and OpenVINO with torch; here the data set's metric is."""
    results = []
    for weights in (folder.root / 'det.pth', det):
        tool('test', folder.config('det'), weights, '--quiet', '--out', folder.root / f'{weights.name}.pkl')
        results.append(pickle.loads((folder.root / f'{weights.name}.pkl').read_bytes()))
    for one, other in zip(*results):
        one, other = one['pred_instances'], other['pred_instances']
        assert len(one['scores']) == len(other['scores']) >= 3
        torch.testing.assert_close(one['bboxes'], other['bboxes'], rtol=0, atol=1e-2)
        torch.testing.assert_close(one['scores'], other['scores'], rtol=0, atol=1e-4)
        assert torch.equal(one['labels'], other['labels'])
    assert {path.suffix for path in folder.root.glob('det.*')} == {'.py', '.pth', '.xml', '.bin', '.pkl'}


def test_a_smaller_image_in_a_larger_file(folder, det):
    from slak_mm.deploy.exported import ExportedModel
    model = load(folder.config('det'))
    exported = ExportedModel(str(det), model.data_preprocessor)
    from mmdet.structures import DetDataSample
    meta = dict(img_shape=(60, 70), ori_shape=(120, 140), scale_factor=(.5, .5))
    data = dict(inputs=torch.randint(0, 256, (3, 60, 70), dtype=torch.uint8), data_samples=DetDataSample(metainfo=meta))
    found = exported.test_step(pseudo_collate([data]))[0].pred_instances
    assert len(found) and found.bboxes.max() <= 140 and found.masks.shape == (len(found), 120, 140)


def test_the_former_name_and_the_backbone_of_a_detector(folder, tool, capfd):
    config, path = folder.config('det'), folder.root / 'backbone.onnx'
    tool('export_onnx', config, config.with_suffix('.pth'), path, '--backbone', '--shape', 64, 96, '--opset', 18, '--pad', 1)
    assert 'onnxruntime and torch: largest difference ' in capfd.readouterr().out
    proto = onnx.load(path)
    assert [output.name for output in proto.graph.output] == ['stage0', 'stage1', 'stage2', 'stage3']
    assert proto.opset_import[0].version == 18
    with pytest.raises(SystemExit, match='is of a backbone alone|is of a CascadeRCNN for features'):
        tool('test', config, path)


@pytest.mark.parametrize('name, args, message', [
    ('cls', ['--cfg-options', 'model.backbone.kernel_sizes=(31,29,27,13)'], r'\(51, 49, 47, 13\),  # instead'),
    ('cls', ['--backbone', '--preprocess'], '--preprocess: the backbone alone has no pre-processing'),
    ('seg', ['--cfg-options', 'model.data_preprocessor.test_cfg.size=(64,64)'], 'pads to a fixed size'),
    ('det', ['--cfg-options', 'model.test_cfg.rcnn.nms.type=soft_nms'], 'is not exported'),
])
def test_what_cannot_be_exported(folder, tool, tmp_path, name, args, message):
    config = folder.config(name)
    with pytest.raises(SystemExit, match=f'(?s)error: .*{message}'):
        tool('export', config, config.with_suffix('.pth'), tmp_path / 'model.onnx', *args)
    assert not (tmp_path / 'model.onnx').exists()


def test_what_differs_is_not_written():
    from slak_mm.deploy.verify import Agreement
    Agreement(1e-5).check('x', 1e-4)
    Agreement(0., 200, 198).check('x', 1e-4)
    for agreement, message in ((Agreement(2e-4), 'differs from torch by 2.0e-04, more than --tolerance 1.0e-04. Nothing was written'),
                               (Agreement(float('nan')), 'differs'), (Agreement(0., 100, 98), 'finds 98 of the 100 detections')):
        with pytest.raises(UserError, match=message):
            agreement.check('x', 1e-4)


def test_a_model_that_takes_no_image_of_any_other_size():
    from slak_mm.deploy.verify import compare

    class Picky:

        def test_step(self, data):
            if data['inputs'][0].shape[1] % 32:
                raise RuntimeError('Expected size 8 but got size 9')
            return [None] * len(data['inputs'])

    described = dict(task='classification', input=dict(size=None, min_size=(33, 64), batch=None, channels=3))
    with pytest.raises(UserError, match=r'in torch, .* no images of 33x64 pixels \(Expected .* --shape; .*pad_size_divisor'):
        compare(Picky(), SimpleNamespace(description=described))


@pytest.mark.parametrize('args', [['--shape', '31', '64'], ['--opset', '17'], ['--pad', '0']])
def test_bad_arguments(tool, capsys, args):
    with pytest.raises(SystemExit):
        tool('export', 'config.py', 'none', 'model.onnx', *args)
    assert f'error: {args[0]}: ' in capsys.readouterr().err


def test_a_name_without_a_format(folder, tool):
    with pytest.raises(SystemExit, match=r'model.pt: the name of the file says the format: .onnx or .xml'):
        tool('export', folder.config('cls'), 'none', 'model.pt')


def test_files_that_do_not_belong(folder, tool, cls, seg, det, tmp_path, capfd):
    def refused(message, *args):
        with pytest.raises(SystemExit, match=message):
            tool('test', *args)

    refused('is of a ImageClassifier for classification, .*seg.py of a EncoderDecoder for segmentation', folder.config('seg'), cls)
    cut = tmp_path / 'cut.onnx'
    cut.write_bytes(seg.read_bytes()[:9999])
    refused('cut.onnx cannot be read', folder.config('seg'), cut)
    (tmp_path / 'alone.xml').write_bytes(det.read_bytes())
    refused('alone.xml cannot be read', folder.config('det'), tmp_path / 'alone.xml')
    other = tmp_path / 'other.onnx'
    proto = onnx.load(seg)
    del proto.metadata_props[:]
    onnx.save(proto, other)
    refused('tools/export.py did not write it', folder.config('seg'), other)
    refused('there is no such file', folder.config('seg'), tmp_path / 'none.onnx')
    classes = tuple('abcdefghijklm')
    refused("has 13 classes, .* 13, and they differ: 'wall' and 'a'", folder.config('seg'), seg, '--cfg-options',
            f'test_dataloader.dataset.metainfo.classes={classes}')
    refused('was exported with the pre-processing', folder.config('seg'), seg, '--cfg-options', 'model.data_preprocessor.mean=[1,2,3]')
    refused('--deploy is for checkpoints', folder.config('seg'), seg, '--deploy')
    refused('is computed in float32', folder.config('seg'), seg, '--amp')


def test_images_that_a_file_does_not_take(cls, seg):
    from slak_mm.deploy.runtime import open_exported
    file = open_exported(cls)
    for images, message in ((np.zeros((1, 3, 64, 64), np.uint8), '64x96 pixels .height x width., this one has 64x64'),
                            (np.zeros((1, 3, 64, 96), np.float32), 'of uint8, these are of float32. Its pre-processing is inside'),
                            (np.zeros((1, 4, 64, 96), np.uint8), 'of 3 channels, these have 4')):
        with pytest.raises(InputError, match=message):
            file.run(images)
    with pytest.raises(InputError, match='from 48x48 pixels on'):
        open_exported(seg).run(np.zeros((1, 3, 40, 60), np.float32))


def test_a_missing_package(cls, monkeypatch):
    from slak_mm.deploy.runtime import open_exported
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match=r'onnxruntime is not installed: pip install "slak_mm\[deploy\]"'):
        open_exported(cls)


@pytest.mark.parametrize('suffix, package', [('.pte', 'executorch'), ('.pt2', None)])
def test_files_of_torch(folder, tool, suffix, package, capfd):
    """To compile takes most of a minute: the tool itself compares the file with torch, and so do these where they are asked for."""
    if package:
        pytest.importorskip(package)
    elif not os.environ.get('SLAK_MM_TEST_COMPILED'):
        pytest.skip('a minute: set SLAK_MM_TEST_COMPILED=1')
    path = folder(tool, 'seg', f'seg{suffix}', '--shape', 64, 80)
    tool('test', folder.config('seg'), path, '--quiet')
    tool('test', folder.config('seg'), folder.root / 'seg.pth', '--quiet')
    first, second = re.findall(r'mIoU: +([0-9.]+)', capfd.readouterr().out + ''.join(
        log.read_text() for log in sorted((folder.root / 'work').rglob('*.log'))[-2:]))[-2:]
    assert float(first) == pytest.approx(float(second), abs=.01)


def test_what_is_not_written_as_a_file_of_torch(folder, tool):
    for name, suffix, message in [('det', '.pt2', 'a whole detector is not exported to .pt2'), ('seg', '.pte', 'give --shape')]:
        with pytest.raises(SystemExit, match=message):
            tool('export', folder.config(name), folder.config(name).with_suffix('.pth'), folder.root / f'none{suffix}')
        assert not (folder.root / f'none{suffix}').exists()
