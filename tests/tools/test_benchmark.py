"""tools/benchmark.py, shrunk; how long things take is not tested."""
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
import torch
from mmpretrain.models import SwinTransformer
from versions import needs_torch

from slak_mm.analysis.benchmarks import layers, models
from slak_mm.analysis.networks import memory_of_training
from slak_mm.models import SLaK, ops

NETWORK = ['--arch', 'micro', '--size', '32', '--batch', '2']
LAYER = ['--channels', '2', '--kernel-size', '9', '--batch', '1', '--resolutions', '4', '8']


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'tools')
    monkeypatch.setitem(SLaK.arch_settings, 'micro', dict(depths=(1, 1, 1, 1), channels=(4, 4, 8, 8)))
    swin = dict(embed_dims=4, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    monkeypatch.setattr(SwinTransformer, 'arch_zoo', dict(SwinTransformer.arch_zoo, micro=swin))
    import benchmark
    yield benchmark
    del sys.modules['benchmark']


@pytest.fixture
def run(benchmark, tmp_path, capsys):
    def run(part, *options, repeats=2):
        benchmark.main([part, *options, '--repeats', str(repeats), '--threads', '1', '--out', str(tmp_path)])
        result = json.loads((tmp_path / f'{part}.json').read_text())
        assert result['part'] == part and result['machine'].keys() >= {'cores', 'torch'} and result['settings']['threads'] == 1
        assert all(len(seconds) == repeats and min(seconds) > 0 for seconds in result['seconds'].values())
        assert result['medians'] == {name: median(seconds) for name, seconds in result['seconds'].items()}
        printed = capsys.readouterr().out
        assert all(f'{ratio:.4f}' in printed for ratio in result['ratios'].values())
        return result
    return run


def test_upkeep(run):
    result = run('upkeep', '--arch', 'micro', '--batch', '2', '--size', '64', repeats=3)
    assert result['settings'] == dict(arch='micro', batch=2, size=64, repeats=3, threads=1)
    assert 'forward and backward' in result['medians']
    ratios = result['ratios']
    assert ratios['upkeep / train step'] == pytest.approx(ratios['masks / train step'] + ratios['adaptation / train step'])


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_layer(run, dtype):
    result = run('layer', *LAYER, '--dtype', dtype)
    medians = result['medians']
    assert list(medians) == [f'{name}, {size}' for size in ('4x4', '8x8') for name in ('dense', 'sparse', 'decomposed')]
    assert len(result['ratios']) == 4
    assert result['ratios']['dense / decomposed, 8x8'] == medians['dense, 8x8'] / medians['decomposed, 8x8']


@pytest.mark.slow
@needs_torch('2.6')
def test_runtimes(run):
    from slak_mm.deploy.runtime import computes_bf16
    medians = run('runtimes', '--arch', 'micro', '--runs', '1x32')['medians']
    names = ['SLaK', 'SLaK merged', 'SLaK merged, bf16', 'onnxruntime', 'OpenVINO']
    names += ['OpenVINO, bf16'] if computes_bf16() else []
    names += ['OpenVINO, int8'] if find_spec('nncf') else []
    assert list(medians) == [f'{name}, batch 1 at 32x32' for name in names]


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_inference(run, dtype):
    result = run('inference', '--arch', 'micro', '--runs', '2x32', '1x64', '--dtype', dtype)
    assert result['settings']['runs'] == [[2, 32], [1, 64]]
    names = ("authors' layout", 'SLaK', 'SLaK merged', 'ConvNeXt', 'ConvNeXt channels_last', 'Swin')
    medians, ratios = result['medians'], result['ratios']
    assert medians.keys() == {f'{name}, batch {rest}' for name in names for rest in ('2 at 32x32', '1 at 64x64')}
    ours = medians['SLaK merged, batch 2 at 32x32']
    assert ratios["authors' layout / SLaK merged, batch 2 at 32x32"] == medians["authors' layout, batch 2 at 32x32"] / ours
    convnext = min(medians[f'{name}, batch 2 at 32x32'] for name in names[3:5])
    assert ratios['SLaK merged / ConvNeXt, batch 2 at 32x32'] == ours / convnext
    assert result['figures']['images/s']['SLaK merged, batch 2 at 32x32'] == 2 / ours


@pytest.mark.slow
def test_forms(run):
    result = run('forms', *NETWORK)
    names = 'naive', 'decomposed', 'sparse', 'sparse, 1.3x width'
    medians = result['medians']
    assert list(medians) == [f'{name}, inference' for name in names] and len(result['ratios']) == 3
    assert result['ratios']['naive / sparse, inference'] == medians['naive, inference'] / medians['sparse, inference']
    parameters = result['figures']['million parameters that are not zero']
    assert parameters['naive'] > parameters['decomposed'] > parameters['sparse, 1.3x width'] > parameters['sparse']
    with_training = run('forms', *NETWORK, '--train')
    assert len(with_training['medians']) == 8 and 'naive / decomposed, train step' in with_training['ratios']


def test_neurons(run):
    result = run('neurons', *NETWORK, '--shares', '.5')
    names = 'all neurons', '50% removed', 'ConvNeXt', 'ConvNeXt channels_last'
    medians, ratios, figures = result['medians'], result['ratios'], result['figures']
    assert medians.keys() == {f'{name}, {kind}' for name in names for kind in ('inference', 'train step')} and len(ratios) == 4
    assert ratios['all neurons / 50% removed, inference'] == medians['all neurons, inference'] / medians['50% removed, inference']
    for unit in ('GFLOPs', 'million parameters'):
        assert figures[unit].keys() == set(names) and figures[unit]['50% removed'] < figures[unit]['all neurons']


def test_train(run, monkeypatch):
    names = "authors' layout", 'SLaK', 'SLaK with_cp', 'ConvNeXt', 'ConvNeXt channels_last'
    mebibytes = dict(zip(names, (6., 4., 2., 3., 3.)))
    measured = []

    def in_fresh_process(function, name, *arguments):
        measured.append((function, *arguments))
        return mebibytes[name] * 2**20

    monkeypatch.setattr(models, 'in_fresh_process', in_fresh_process)
    result = run('train', *NETWORK)
    arguments = SLaK.arch_settings['micro'], 2, 32, 'cpu', torch.float32, 1
    assert measured == [(memory_of_training, *arguments)] * 5
    seconds, medians, ratios = result['seconds'], result['medians'], result['ratios']
    assert list(result['figures'].values()) == [mebibytes]
    assert ratios["authors' layout / SLaK, peak memory"] == 1.5 and ratios["authors' layout / SLaK with_cp, peak memory"] == 3.
    for name in names:
        parts = zip(seconds[f'{name}, forward and backward'], seconds[f'{name}, optimizer'])
        assert seconds[f'{name}, train step'] == list(map(sum, parts))
    assert ratios["authors' layout / SLaK, train step"] == medians["authors' layout, train step"] / medians['SLaK, train step']


def test_scaling(run, monkeypatch):
    def seconds(cases, repeats):
        """Proportional to the taps; each case runs once."""
        taps = {}
        for name in cases:
            kernel, size = (int(part.split(' = ')[1]) for part in name.split(', ')[1:3])
            taps[name] = [float(size**2 * (kernel if 'decomposed' in name else kernel**2))] * repeats
            cases[name]()
        return taps

    monkeypatch.setattr(layers, 'interleaved', seconds)
    result = run('scaling', *LAYER, '--kernel-sizes', '5', '7', '11', '--size', '6')
    assert len(result['medians']) == 2 * 2 * (3 + 2) and len(result['ratios']) == 2 * (3 + 2)
    assert result['ratios']['MxM / decomposed, M = 11, R = 6, forward'] == 11
    expected = {'decomposed in M': 1, 'decomposed in R': 2, 'MxM in M': 2, 'MxM in R': 2}
    assert result['figures']['exponent'] == {f'{series}, {direction}': pytest.approx(exponent)
                                             for series, exponent in expected.items()
                                             for direction in ('forward', 'forward and backward')}


@pytest.mark.slow
def test_gpu_shrunk_to_the_cpu(benchmark, tmp_path, monkeypatch):
    used, use_backend = [], ops.use_backend
    monkeypatch.setattr(ops, 'use_backend', lambda name: used.append(name) or use_backend(name))
    benchmark.main(['gpu', '--device', 'cpu', '--minutes', '.05', '--threads', '1', '--out', str(tmp_path)])
    result = json.loads((tmp_path / 'gpu.json').read_text())
    medians, ratios, images = result['medians'], result['ratios'], result['figures']['images/s']
    assert set(used) == {'native', 'auto'}
    assert list(medians)[0] == "authors' layout, inference, bf16"  # what matters most, first
    name = 'SLaK merged by auto, inference, bf16'
    assert images[name] == 1 / medians[name]
    assert ratios[f"authors' layout / {name}"] == medians["authors' layout, inference, bf16"] / medians[name]
    assert ratios[f'throughput of {name} / ConvNeXt'] == min(
        medians[f'{convnext}, inference, bf16'] for convnext in ('ConvNeXt', 'ConvNeXt channels_last')) / medians[name]
    table = (tmp_path / 'gpu.md').read_text()
    assert f'| SLaK merged by auto | bf16 | inference | {1000 * medians[name]:.1f} |' in table


def test_gpu_keeps_what_it_has_when_time_is_up(benchmark, monkeypatch):
    gpu = sys.modules['slak_mm.analysis.benchmarks.gpu']
    clock = iter(range(1000))
    monkeypatch.setattr(gpu, 'timed', lambda cases, seconds, deadline: {name: [1.] for name in cases})
    monkeypatch.setattr(gpu.time, 'monotonic', lambda: 60. * next(clock))
    result = gpu.gpu(SimpleNamespace(minutes=2.5, device='cpu', dtypes=['bf16', 'fp32'], resolutions=[8]))
    assert {name.partition(', ')[2] for name in result.seconds} == {'inference, bf16', 'train step, bf16'}
    left_out = ['inference, fp32', 'train step, fp32', 'op, bf16, 8x8', 'op, fp32, 8x8']
    assert list(result.figures['not measured, as time was up']) == left_out


def test_ratios_of_the_op():
    gpu = sys.modules['slak_mm.analysis.benchmarks.gpu']
    times = {'torch NCHW': 6., 'torch NHWC': 4., 'ours by auto': 2.}
    medians = {f'{name}, op, bf16, 8x8, sum, forward': value for name, value in times.items()}
    assert gpu.compare(medians) == {'torch / ours by auto, op, bf16, 8x8, sum, forward': 2.}


@pytest.mark.skipif(torch.cuda.is_available(), reason='for a machine without a GPU')
@pytest.mark.parametrize('argv', [['gpu'], ['layer', '--device', 'cuda']], ids=' '.join)
def test_no_gpu_is_one_line(benchmark, argv):
    with pytest.raises(SystemExit, match='^error: .* on cuda needs an NVIDIA GPU.*here$'):
        sys.modules['common'].run(benchmark.main, argv)


def test_defaults_are_those_of_the_issue(benchmark):
    args = benchmark.parse_args(['upkeep'])
    assert (args.arch, args.batch, args.size) == ('tiny', 8, 224)
    args = benchmark.parse_args(['inference'])
    assert (args.arch, args.runs) == ('tiny', [(8, 224), (1, 224), (1, 512)])
    args = benchmark.parse_args(['train'])
    assert (args.arch, args.batch, args.size) == ('tiny', 4, 224)
    args = benchmark.parse_args(['gpu'])
    assert (args.op_batch, args.channels, args.resolutions, args.dtypes) == (64, 384, [64, 32, 16, 128], ['bf16', 'fp32'])
    assert (args.minutes, args.batch, args.train_batch) == (4, 128, 128)
