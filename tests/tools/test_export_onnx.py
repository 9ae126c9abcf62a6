"""tools/export_onnx.py, merged files and configs/deploy, on micro models whose every term is non-trivial."""
import collections
import importlib
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoint_helpers import randomise
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).parents[2]
ARCH = dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20))
WIDTHS = [10, 15, 20, 26]
SHAPE = 64, 96
DEPLOY = sorted(path.name for path in (ROOT / 'configs/deploy').glob('*.py'))
pytestmark = pytest.mark.slow


def shrink(cfg):
    cfg.model.backbone.arch = ARCH
    if 'neck' in cfg.model and cfg.model.neck.type == 'FPN':
        cfg.model.neck.in_channels = WIDTHS
        heads = cfg.model.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.fc_out_channels = 8
    elif 'head' in cfg.model:
        cfg.model.head.in_channels = WIDTHS[3]
    else:
        cfg.model.decode_head.update(in_channels=WIDTHS, channels=8)
        cfg.model.auxiliary_head.update(in_channels=WIDTHS[2], channels=8)
    return cfg


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model).eval()


@pytest.fixture(scope='module')
def micro(tmp_path_factory):
    """Of a config's name: a shrunk config, a checkpoint and its model, not merged."""
    folder = tmp_path_factory.mktemp('micro')

    def make(name):
        config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
        cfg = shrink(Config.fromfile(ROOT / f'configs/{name}.py'))
        cfg.dump(config)
        model = build(cfg)
        randomise(model)
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        return config, checkpoint, model

    return make


@pytest.fixture
def tool(monkeypatch):
    """Runs a tool in this process."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))

    def run(name, *args):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        sys.modules['common'].run(module.main)

    return run


@torch.no_grad()
def assert_equal(path, model):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for batch in (1, 3):
        images = torch.randn(batch, 3, *SHAPE)
        expected = model(images)
        actual = session.run(None, dict(images=images.numpy()))
        for a, e in zip(actual, [expected] if torch.is_tensor(expected) else expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=0, atol=1e-4 * float(e.abs().max()))


def test_a_classifier(micro, tool, tmp_path, capfd, recwarn):
    config, checkpoint, model = micro('slak_t_300e_in1k')
    out = tmp_path / 'new/model.onnx'
    tool('export_onnx', config, checkpoint, out, '--shape', *SHAPE)
    printed = capfd.readouterr()
    assert 'Largest difference between onnxruntime and torch: ' in printed.out and not printed.err
    assert not [warning for warning in recwarn if 'torch' in warning.filename]
    assert_equal(out, model)

    proto = onnx.load(out)
    assert [path.name for path in out.parent.iterdir()] == ['model.onnx'] and str(ROOT).encode() not in out.read_bytes()
    counts = collections.Counter(node.op_type for node in proto.graph.node)
    blocks = sum(ARCH['depths'])
    assert (counts['Conv'], counts['Gelu'], counts['LayerNormalization']) == (4 + 2 * blocks - 1, blocks, 4 + blocks + 1)
    lean = {'Conv', 'Add', 'Transpose', 'LayerNormalization', 'MatMul', 'Gelu', 'Mul', 'ReduceMean', 'Reshape', 'Gemm'}
    assert counts.keys() == lean
    kernels = {tuple(weight.dims[2:]) for weight in proto.graph.initializer if weight.dims[1:2] == [1]}
    # the maps are 16x24, 8x12, 4x6 and 2x3, on which both stripes of the last block reach equally far and are one
    assert kernels == {(31, 5), (5, 47), (15, 5), (5, 23), (7, 5), (5, 11), (3, 5)}


def test_the_backbone_of_a_detector(micro, tool, tmp_path):
    config, checkpoint, model = micro('faster_rcnn_slak_t_36e_voc07')
    tool('export_onnx', config, checkpoint, tmp_path / 'model.onnx', '--backbone', '--shape', *SHAPE, '--opset', 18)
    assert_equal(tmp_path / 'model.onnx', model.backbone)
    proto = onnx.load(tmp_path / 'model.onnx')
    assert [output.name for output in proto.graph.output] == ['stage0', 'stage1', 'stage2', 'stage3']
    assert proto.opset_import[0].version == 18


def test_a_segmentor(micro, tool, tmp_path):
    config, checkpoint, model = micro('upernet_slak_t_160k_ade20k')
    tool('export_onnx', config, checkpoint, tmp_path / 'model.onnx', '--shape', *SHAPE)
    assert_equal(tmp_path / 'model.onnx', model)


@pytest.mark.parametrize('name, change, args, message', [
    ('faster_rcnn_slak_t_36e_voc07', None, [], 'of a detector only the backbone is exported: add --backbone'),
    ('slak_t_300e_in1k', lambda weights: weights.pop('head.fc.bias'), [], 'lacks 1 weights of the model, e.g. head.fc.bias'),
    ('slak_t_300e_in1k', lambda weights: weights.update({'head.fc.weight': torch.zeros(5, 26)}), [],
     'head.fc.weight is (5, 26), the model has (1000, 26)'),
    ('slak_t_300e_in1k', None, ['--cfg-options', 'model.backbone.kernel_sizes=(31,29,27,13)'], '(51, 49, 47, 13),  # instead'),
    ('slak_t_300e_in1k', None, ['--tolerance', '0'], 'more than --tolerance 0.0e+00. Nothing was written'),
])
def test_what_cannot_be_exported(micro, tool, tmp_path, name, change, args, message):
    config, checkpoint, model = micro(name)
    if change:
        weights = model.state_dict()
        change(weights)
        torch.save(dict(state_dict=weights), checkpoint)
    with pytest.raises(SystemExit) as error:
        tool('export_onnx', config, checkpoint, tmp_path / 'model.onnx', '--shape', *SHAPE, *args)
    assert str(error.value).startswith('error: ') and message in str(error.value)
    assert not (tmp_path / 'model.onnx').exists()


@pytest.mark.parametrize('args', [['--shape', '31', '64'], ['--opset', '17']])
def test_bad_arguments(tool, capsys, args):
    with pytest.raises(SystemExit):
        tool('export_onnx', 'config.py', 'none', 'model.onnx', *args)
    assert f'error: {args[0]}: ' in capsys.readouterr().err


@torch.no_grad()
@pytest.mark.parametrize('name', DEPLOY)
def test_a_deploy_config_loads_a_merged_file(micro, tool, tmp_path, capsys, name):
    parent = name.replace('_deploy.py', '')
    _, checkpoint, model = micro(parent)
    cfg = Config.fromfile(ROOT / 'configs/deploy' / name)
    expected = Config.fromfile(ROOT / f'configs/{parent}.py')
    expected.merge_from_dict({'model.backbone.deploy': True, 'custom_hooks': []})
    assert cfg.to_dict() == expected.to_dict()

    tool('convert_checkpoint', checkpoint, tmp_path / 'merged.pth', '--deploy')
    assert 'deploy=True' in capsys.readouterr().out
    weights = torch.load(tmp_path / 'merged.pth', weights_only=True)['state_dict']
    deployed = build(shrink(cfg))
    deployed.load_state_dict(weights)
    assert not any('.bn.' in key or '.small.' in key for key in weights if key.startswith('backbone.'))
    images = torch.randn(2, 3, *SHAPE)
    for ours, theirs in zip(deployed.backbone(images), model.backbone(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_every_deploy_config_is_tested():
    assert len(DEPLOY) == 7
