"""What a sparse training has removed is cut out: outputs stay, and the rest is an ordinary model."""
import importlib

import onnxruntime
import pytest
import torch
from checkpoint_helpers import randomise
from micro_configs import ARCH, shrink
from mmengine import Config
from mmengine.registry import DefaultScope
from versions import needs_torch

from slak_mm.analysis import config_flops
from slak_mm.checkpoints import CheckpointError, check_fits
from slak_mm.checkpoints.convert import inspect
from slak_mm.compat import load_weights_only
from slak_mm.deploy import compact
from slak_mm.deploy.compaction import write_config
from slak_mm.deploy.merge import change_state_dict, merge_model
from slak_mm.errors import InputError
from slak_mm.models import SLaK
from slak_mm.models.build import build_model
from slak_mm.sparsity import DynamicSparsity

CONFIGS = ['slak_micro_toy_in1k', 'upernet_slak_micro_toy_ade20k', 'cascade_mask_rcnn_slak_micro_toy_coco']
LEFT = ((24, ), (36, ), (48, 48), (62, ))  # of 40, 60, 80, 80, 104: 218 of 364


def prune(model, **options):
    """As a sparse training leaves it: neurons removed, all else at values that hide no mistake."""
    randomise(model)
    sparsity = DynamicSparsity(model, 10, **{**dict(init='uniform', granularity='neuron'), **options})
    sparsity.initialize()
    return model


def slak(**kwargs):
    torch.manual_seed(0)
    return SLaK(ARCH, kernel_sizes=(7, 7, 5, 3), small_kernel_size=3, norm_cfg=dict(type='BN'), **kwargs)


def outputs(model, dtype=torch.float32):
    with torch.no_grad():
        return model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=dtype))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize('training', [False, True])
def test_outputs_and_gradients_stay(dtype, tolerance, training):
    model = prune(slak(gap_before_final_norm=False, out_indices=(0, 1, 2, 3))).to(dtype).train(training)
    expected = outputs(model, dtype)
    assert compact(model) == {'': dict(mlp_channels=LEFT)} and model.mlp_channels == LEFT
    for a, b in zip(outputs(model, dtype), expected):
        assert (a - b).abs().max() <= tolerance * max(1, b.abs().max())
    sum(out.square().mean() for out in model(torch.randn(2, 3, 64, 64, dtype=dtype))).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    assert compact(model) == {'': dict(mlp_channels=LEFT)}  # there is nothing left to cut


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize('form', ['decomposed', 'reparam'])
def test_filters_are_cut_out(dtype, tolerance, form):
    model = prune(slak(gap_before_final_norm=False, large_kernel=form), granularity=dict(neuron=.4, filter=.5)).to(dtype).eval()
    expected = outputs(model, dtype)[0]
    kept = sum(int((p != 0).flatten(1).any(1).sum()) for name, p in model.named_parameters() if 'large_kernel' in name and p.ndim == 4)
    arguments = compact(model)['']
    assert arguments.keys() == {'mlp_channels', 'filters'} and len(arguments['filters'][2]) == 2
    left = sum(len(p) for name, p in model.named_parameters() if 'large_kernel' in name and p.ndim == 4)
    assert kept <= left <= kept + 71 // 2  # channels without any filter keep one
    assert (outputs(model, dtype)[0] - expected).abs().max() <= tolerance * max(1, expected.abs().max())
    state = model.state_dict()
    again = SLaK(**inspect({f'backbone.{name}': value for name, value in state.items()})[1], gap_before_final_norm=False).to(dtype)
    again.load_state_dict(state)
    assert torch.equal(outputs(again.eval(), dtype)[0], outputs(model, dtype)[0])
    again.train()
    again(torch.randn(2, 3, 64, 64, dtype=dtype))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in again.parameters())
    merge_model(model)
    assert (outputs(model, dtype)[0] - expected).abs().max() <= 10 * tolerance * max(1, expected.abs().max())
    merged = SLaK(**inspect({f'backbone.{name}': value for name, value in model.state_dict().items()})[1], gap_before_final_norm=False)
    merged.to(dtype).eval().load_state_dict(model.state_dict())
    assert torch.equal(outputs(merged, dtype)[0], outputs(model, dtype)[0])
    before = model.state_dict()
    compact(model)
    assert before.keys() == model.state_dict().keys()


@pytest.mark.parametrize('change', [
    lambda i: i + 100, lambda i: i - 1 - i[0], lambda i: i.flip(0), lambda i: i * 0, lambda i: i.float()])
def test_a_file_whose_filters_are_of_no_channels(change):
    model = prune(slak(), granularity='filter')
    compact(model)
    state = model.state_dict()
    model.load_state_dict(state)
    with pytest.raises(CheckpointError, match='tall.index does not name channels'):
        model.load_state_dict({**state, 'stages.0.0.large_kernel.tall.index': change(state['stages.0.0.large_kernel.tall.index'])})


def test_filters_out_of_range():
    for filters in ([dict(tall=10)], [dict(tall=0)], [dict(full=3)]):
        with pytest.raises(ValueError, match='must be numbers from 1 to below 10'):
            slak(filters=[filters, None, None, None])
    with pytest.raises(ValueError, match='must be 1 dicts, or None'):
        slak(filters=[[3], None, None, None])


def test_what_is_left_is_an_ordinary_slak():
    model = prune(slak()).eval()
    compact(model)
    state = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    _, config = inspect(state)
    assert config['mlp_channels'] == LEFT
    again = SLaK(**config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(*(outputs(m)[0] for m in (again, model)))
    merged = change_state_dict(state, merge_model)
    assert inspect(merged)[1] == dict(config, deploy=True)
    with pytest.raises(CheckpointError, match=r'mlp_channels=\(\(24,\), \(36,\), \(48, 48\), \(62,\)\),  # instead of'):
        slak().load_state_dict(model.state_dict())
    with pytest.raises(CheckpointError, match='mlp_channels=None'):
        model.load_state_dict(slak().state_dict())


def test_which_units_go():
    model = slak()
    first, second = model.stages[0][0].pwconv1, model.stages[0][0].pwconv2
    with torch.no_grad():
        first.bias.fill_(1.)
        second.weight[:, 0] = 0  # nothing uses it
        first.weight[1] = first.bias[1] = 0  # always zero
        first.weight[2] = 0  # a constant, which is used
    first.weight.requires_grad = False
    third = first.weight[2:].clone()
    assert compact(model)['']['mlp_channels'] == ((38, ), (60, ), (80, 80), (104, ))
    assert torch.equal(first.weight, third) and first.out_features == second.in_features == 38
    assert not first.weight.requires_grad and second.weight.requires_grad
    with torch.no_grad():
        second.weight.zero_()
    assert compact(model)['']['mlp_channels'][0] == (1, )


def test_stages_that_are_not_built():
    model = prune(slak(out_indices=1))
    compact(model)
    config = inspect({f'backbone.{name}': value for name, value in model.state_dict().items()})[1]
    assert model.mlp_channels[:2] == config['mlp_channels'][:2] and config['mlp_channels'][2:] == (None, None)
    SLaK(**config).load_state_dict(model.state_dict())


def test_what_cannot_be_cut():
    model = prune(slak())
    torch.nn.utils.parametrizations.weight_norm(model.stages[3][0].pwconv2)
    before = {name: value.shape for name, value in model.state_dict().items()}
    with pytest.raises(TypeError, match='changed, wrapped or hooked'):
        compact(model)
    assert {name: value.shape for name, value in model.state_dict().items()} == before
    with pytest.raises(TypeError, match='Linear has no SLaK'):
        compact(torch.nn.Linear(2, 2))


@pytest.mark.parametrize('value, message', [
    (5, 'one entry for each of the 4 stages'), ((None, None, (8, ), None), 'a stage of 2 blocks must be 2 numbers'),
    (((0, ), None, None, None), 'must be an integer from 1'),
])
def test_mlp_channels_out_of_range(value, message):
    with pytest.raises(ValueError, match=message):
        slak(mlp_channels=value)


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_the_tool_in_each_library(request, tmp_path, monkeypatch, name):
    root = request.config.rootpath
    cfg = shrink(Config.fromfile(root / f'configs/{name}.py'))
    cfg.model.backbone.pop('init_cfg', None)
    cfg.dump(tmp_path / 'config.py')
    model = prune(build_model(cfg), only=['backbone']).eval()
    torch.save(dict(meta=dict(dataset_meta=dict(classes=('a', 'b'))), state_dict=model.state_dict()), tmp_path / 'sparse.pth')
    monkeypatch.syspath_prepend(str(root / 'tools'))
    importlib.import_module('convert_checkpoint').main([str(tmp_path / 'sparse.pth'), str(tmp_path / 'out/small.pth'), '--compact',
                                                        '--config', str(tmp_path / 'config.py')])
    own = Config.fromfile(tmp_path / 'out/small.py')
    small = build_model(own).eval()
    checkpoint = load_weights_only(tmp_path / 'out/small.pth', 'cpu')
    check_fits(checkpoint['state_dict'], small)
    small.load_state_dict(checkpoint['state_dict'])
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        pairs = [model.extract_feat(images) for model in (small, model)]
        for a, b in zip(*pairs):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5)
    # its cost is counted, and it trains on
    counts = [config_flops.count(c, (64, 64))[0] for c in (own, cfg)]
    assert counts[0].parameters == sum(p.numel() for p in small.parameters()) < counts[1].parameters
    assert counts[0].macs < counts[1].macs
    (tmp_path / 'out/mine.py').write_text('mine = 1')
    with pytest.raises(InputError, match='mine.py is there already'):
        write_config(tmp_path / 'out/mine.pth', {})
    small.train()
    small.extract_feat(images)[0].mean().backward()
    assert all(p.grad is not None for p in small.backbone.stages[0].parameters())


@needs_torch('2.6')
@pytest.mark.slow
def test_through_onnx():
    from slak_mm.deploy.export import export
    from slak_mm.deploy.whole import Features, Whole
    model = prune(slak(), granularity=dict(neuron=.4, filter=.4)).eval()
    expected = outputs(model)[0]
    assert compact(model)[''].keys() == {'mlp_channels', 'filters'}
    merge_model(model, 16)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    described = dict(task='features', input=dict(size=[64, 64], batch=None, channels=3),
                     preprocess=dict(inside=False, mean=None, std=None, swap=False))
    content = export(Whole(Features(model), torch.nn.Identity()), described).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    out, = session.run(None, dict(images=images.numpy()))
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-5, atol=1e-5)
