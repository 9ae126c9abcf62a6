"""tools/quantize.py on a micro segmentor, by both runtimes: what is written, what is said, and what is refused."""
import numpy as np
import onnx
import pytest
from mmengine import Config
from versions import needs_torch

from slak_mm.deploy import quantization
from slak_mm.deploy.calibration import calibration_images
from slak_mm.deploy.runtime import open_exported
from slak_mm.errors import UserError

pytestmark = [pytest.mark.slow, needs_torch('2.8')]


def test_onnx(tool, folder, seg, capsys):
    out = folder.root / 'int8/seg.onnx'
    tool('quantize', folder.config('seg'), seg, out, '--calibrate', 3, '--seconds', 0)
    text = capsys.readouterr().out
    for word in ('mIoU', 'MB', 'ms an image, OnnxRuntime', 'layers that changed most'):
        assert word in text
    assert 'images of the training data: 1' in text
    model = onnx.load(out)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    products = [node for node in onnx.load(seg).graph.node if node.op_type in ('Conv', 'MatMul')]
    assert len(products) > 20 and list(kinds.values()).count(onnx.TensorProto.INT8) >= len(products)
    before, after = open_exported(seg), open_exported(out)
    assert after.description == before.description
    image = np.random.RandomState(0).standard_normal((1, 3, 64, 80)).astype(np.float32)
    a, b = before.run(image)['scores'], after.run(image)['scores']
    assert 0 < np.abs(a - b).max() and np.linalg.norm(a - b) < .2 * np.linalg.norm(a)


def test_openvino(tool, folder):
    pytest.importorskip('nncf')
    path, out = folder(tool, 'seg', 'seg.xml'), folder.root / 'int8/seg.xml'
    tool('quantize', folder.config('seg'), path, out, '--calibrate', 1, '--seconds', 0)
    assert out.with_suffix('.bin').stat().st_size < .6 * path.with_suffix('.bin').stat().st_size
    before, after = open_exported(path), open_exported(out)
    assert after.description == before.description
    image = np.random.RandomState(0).standard_normal((1, 3, 64, 80)).astype(np.float32)
    a, b = before.run(image)['scores'], after.run(image)['scores']
    assert 0 < np.abs(a - b).max() and np.linalg.norm(a - b) < .2 * np.linalg.norm(a)


@pytest.mark.parametrize('bias', [False, True])
def test_each_convolution_has_a_bias(tmp_path, bias):
    """Without, OpenVINO may lose its scale; the one that it is given changes nothing."""
    pytest.importorskip('nncf')
    openvino = pytest.importorskip('openvino')
    from openvino import opset13 as ops
    rng = np.random.RandomState(0)
    images = [rng.standard_normal((1, 124, 8, 8)).astype(np.float32) for _ in range(2)]
    given = ops.parameter([1, 124, 8, 8], np.float32)
    weight, kernels = (rng.standard_normal(shape).astype(np.float32) for shape in ((32, 124, 2, 2), (32, 1, 1, 5, 5)))
    maps = ops.convolution(given, weight, [2, 2], [0, 0], [0, 0], [1, 1])
    if bias:
        maps = ops.add(maps, rng.standard_normal((1, 32, 1, 1)).astype(np.float32))
    wide = ops.group_convolution(maps, kernels, [1, 1], [2, 2], [2, 2], [1, 1])
    openvino.save_model(openvino.Model([ops.add(maps, wide)], [given]), tmp_path / 'a.xml', compress_to_fp16=False)
    quantization.quantize(str(tmp_path / 'a.xml'), images, str(tmp_path / 'b.xml'))
    core = openvino.Core()
    a, b = (core.compile_model(tmp_path / name, 'CPU', dict(INFERENCE_PRECISION_HINT='f32'))(images[0])[0]
            for name in ('a.xml', 'b.xml'))
    assert 0 < np.abs(a - b).max() and np.linalg.norm(a - b) < .05 * np.linalg.norm(a)
    sums = [node for node in core.read_model(tmp_path / 'b.xml').get_ops() if node.get_type_name() == 'Add']
    assert len(sums) == 2  # of which one is a bias, the given one or ours


def test_too_large_a_drop_writes_nothing(tool, folder, seg):
    out = folder.root / 'refused/seg.onnx'
    with pytest.raises(SystemExit, match='mIoU drops by .* points, more than --max-drop -100. Nothing was written'):
        tool('quantize', folder.config('seg'), seg, out, '--max-drop', -100, '--seconds', 0)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize('out, message', [('seg.xml', 'must have the suffix of'), ('seg.onnx', 'is the file itself')])
def test_names_that_are_refused(tool, folder, seg, out, message, capsys):
    with pytest.raises(SystemExit):
        tool('quantize', folder.config('seg'), seg, folder.root / out)
    assert message in capsys.readouterr().err


def test_calibration_images_are_those_of_the_test_pipeline(folder, seg):
    cfg = Config.fromfile(folder.config('seg'))
    image, = calibration_images(cfg, str(seg), 5)  # the toy data have one
    assert image.shape == (1, 3, 64, 80) and image.dtype == np.float32 and abs(image.mean()) < 3
    cfg.pop('train_dataloader')
    with pytest.raises(UserError, match='no train_dataloader'):
        calibration_images(cfg, str(seg), 5)


def test_the_error_of_a_layer(folder, seg):
    """Of a file compared with itself, and with one whose one layer is another."""
    image = np.random.RandomState(0).standard_normal((1, 3, 64, 80)).astype(np.float32)
    assert set(quantization.layer_errors(str(seg), str(seg), [image]).values()) == {0.}
    model = onnx.load(seg)
    last = next(node for node in model.graph.node if node.name.startswith('decode_head.conv_seg/') and node.op_type == 'Conv')
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == last.input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder.root / 'changed.onnx')
    errors = quantization.layer_errors(str(seg), str(folder.root / 'changed.onnx'), [image])
    assert list(errors)[0] == last.name and .4 < errors[last.name] <= .5 + 1e-6
    assert all(error == 0 for name, error in errors.items() if name.startswith('backbone'))  # which comes before
