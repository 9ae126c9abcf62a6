import argparse
import functools
import http.server
import os
import pickle
import threading
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from slak_mm.checkpoint import CheckpointError, convert_state_dict, infer_config, load_file, select_state_dict
from slak_mm.models import SLaK


@pytest.fixture(scope='module')
def raw(request):
    return torch.load(os.path.join(os.path.dirname(__file__), 'data/slak_micro.pth'), weights_only=True)


@pytest.fixture
def save(tmp_path):

    def save(content, name='file.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save


def pretrained(checkpoint, **kwargs):
    return dict(type='Pretrained', checkpoint=str(checkpoint), **kwargs)


def load(micro, checkpoint, **kwargs):
    model = SLaK(**micro, init_cfg=pretrained(checkpoint, **kwargs))
    model.init_weights()
    return model.eval()


def stage_outs(model, images):
    outs = []
    handles = [stage.register_forward_hook(lambda _, __, out: outs.append(out)) for stage in model.stages]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return outs


def assert_parity(model, expected, rtol=1e-5):
    for ours, theirs in zip(stage_outs(model, expected['input']), expected['stage_outs'], strict=True):
        assert (ours - theirs).abs().max() <= rtol * theirs.abs().max()


def classifier(micro, **kwargs):
    """As a user's config builds it."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='ImageClassifier',
            backbone=dict(type='slak_mm.SLaK', **dict(micro, out_indices=-1, gap_before_final_norm=True)),
            head=dict(type='LinearClsHead', num_classes=7, in_channels=26),
            **kwargs))
        model.init_weights()
    return model.eval()


# ---- parity with the authors' code -----------------------------------------------------------------------------------


def test_stage_outputs_equal_the_authors(micro, official, expected):
    model = load(micro, official)
    assert_parity(model, expected)
    model.switch_to_deploy()
    assert_parity(model, expected, 1e-4)


@pytest.mark.parametrize('key, logits', [(None, 'logits'), ('model', 'logits'), ('model_ema', 'logits_ema')])
def test_logits_equal_the_authors(micro, official, expected, key, logits):
    model = classifier(micro, init_cfg=pretrained(official, key=key))
    torch.testing.assert_close(model(expected['input']), expected[logits], rtol=1e-5, atol=1e-5)
    model.backbone.switch_to_deploy()
    torch.testing.assert_close(model(expected['input']), expected[logits], rtol=1e-4, atol=1e-4)


# ---- files in the official format, computed plainly ------------------------------------------------------------------


def official_blocks(kernel_size, decomposed):
    """Kernels of each stage as the authors' option says: four long edges, then the small one, left out where it is not smaller."""
    *long_edges, small = kernel_size
    for size in long_edges:
        kernels = dict(LoRA1=(size, small), LoRA2=(small, size)) if decomposed else dict(lkb_origin=(size, size))
        yield dict(kernels, small_conv=(small, small)) if small < size else kernels


def official_file(kernel_size, depths=(1, 1, 2, 1), dims=(6, 7, 8, 9), classes=7, seed=0):
    """Weights that are not decomposed, drawn such that every term shows, under the authors' names."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, mean=0., std=.3):
        return mean + std * torch.randn(*shape, generator=generator)

    def norm(name, channels):
        return {f'{name}.weight': normal(channels, mean=1.), f'{name}.bias': normal(channels)}

    def affine(name, *shape):
        return {f'{name}.weight': normal(*shape), f'{name}.bias': normal(shape[0])}

    weights = {}
    for i, (depth, width, kernels) in enumerate(zip(depths, dims, official_blocks(kernel_size, False))):
        before, size = (3, 4) if i == 0 else (dims[i - 1], 2)
        weights.update(affine(f'downsample_layers.{i}.{min(i, 1)}', width, before, size, size))
        weights.update(norm(f'downsample_layers.{i}.{int(i == 0)}', width if i == 0 else before))
        for j in range(depth):
            block = f'stages.{i}.{j}'
            weights[f'{block}.gamma'] = normal(width, mean=1.)
            for name, shape in kernels.items():
                conv = f'{block}.large_kernel.{name}'
                weights[f'{conv}.conv.weight'] = normal(width, 1, *shape)
                weights.update(norm(f'{conv}.bn', width))
                weights[f'{conv}.bn.running_mean'] = normal(width)
                weights[f'{conv}.bn.running_var'] = normal(width).abs() + .5
                weights[f'{conv}.bn.num_batches_tracked'] = torch.tensor(100)
            weights.update(norm(f'{block}.norm', width))
            weights.update(affine(f'{block}.pwconv1', 4 * width, width))
            weights.update(affine(f'{block}.pwconv2', width, 4 * width))
    return {**weights, **norm('norm', dims[-1]), **affine('head', classes, dims[-1])}


def merged_file(weights):
    """As the authors merge: batch norms folded, the small kernel added into the centre, under lkb_reparam."""
    merged = {name: value for name, value in weights.items() if '.large_kernel.' not in name}
    for layer in {name.split('.large_kernel.')[0] + '.large_kernel' for name in weights if '.large_kernel.' in name}:
        kernel, bias = None, 0.
        for branch in ('lkb_origin', 'small_conv'):
            bn = f'{layer}.{branch}.bn'
            if f'{bn}.weight' in weights:
                scale = weights[f'{bn}.weight'] / (weights[f'{bn}.running_var'] + 1e-5).sqrt()
                folded = weights[f'{layer}.{branch}.conv.weight'] * scale.view(-1, 1, 1, 1)
                bias = bias + weights[f'{bn}.bias'] - weights[f'{bn}.running_mean'] * scale
                edge = 0 if kernel is None else (kernel.shape[2] - folded.shape[2]) // 2
                kernel = folded if kernel is None else kernel + F.pad(folded, [edge] * 4)
        merged.update({f'{layer}.lkb_reparam.weight': kernel, f'{layer}.lkb_reparam.bias': bias})
    return merged


def official_logits(weights, x, kernel_size, decomposed=False, depths=(1, 1, 2, 1)):
    """The authors' network in evaluation, in plain torch, from their names alone."""

    def linear(x, name):
        return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

    def norm_channels(x, name):
        x = x.movedim(1, -1)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return (x * weights[f'{name}.weight'] + weights[f'{name}.bias']).movedim(-1, 1)

    def conv_bn(x, name, shape):
        weight, bn = weights[f'{name}.conv.weight'], f'{name}.bn'
        assert tuple(weight.shape) == (x.shape[1], 1, *shape)
        x = F.conv2d(x, weight, padding=(shape[0] // 2, shape[1] // 2), groups=x.shape[1])
        mean, var, scale, shift = (weights[f'{bn}.{term}'].view(-1, 1, 1)
                                   for term in ('running_mean', 'running_var', 'weight', 'bias'))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    for i, (depth, kernels) in enumerate(zip(depths, official_blocks(kernel_size, decomposed))):
        for layer in range(2):
            name = f'downsample_layers.{i}.{layer}'
            if layer == min(i, 1):
                x = F.conv2d(x, weights[f'{name}.weight'], weights[f'{name}.bias'], stride=4 if i == 0 else 2)
            else:
                x = norm_channels(x, name)
        for block in (f'stages.{i}.{j}' for j in range(depth)):
            out = sum(conv_bn(x, f'{block}.large_kernel.{name}', shape) for name, shape in kernels.items())
            out = norm_channels(out, f'{block}.norm').movedim(1, -1)
            out = linear(F.gelu(linear(out, f'{block}.pwconv1')), f'{block}.pwconv2') * weights[f'{block}.gamma']
            x = x + out.movedim(-1, 1)
    return linear(norm_channels(x.mean((2, 3)), 'norm'), 'head')


def official_classifier(path, key=None, dims=(6, 7, 8, 9), **kwargs):
    backbone = dict(type='slak_mm.SLaK', arch=dict(depths=(1, 1, 2, 1), channels=dims), width_factor=1.0, **kwargs)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(type='ImageClassifier', backbone=backbone,
                                  head=dict(type='LinearClsHead', num_classes=7, in_channels=dims[-1]),
                                  init_cfg=pretrained(path, key=key)))
        model.init_weights()
    return model.eval()


@pytest.mark.parametrize('key, logits', [('model', 'logits'), ('model_ema', 'logits_ema')])
def test_the_plain_computation_is_the_authors(raw, expected, key, logits):
    ours = official_logits(raw[key], expected['input'], (51, 49, 47, 13, 5), decomposed=True)
    torch.testing.assert_close(ours, expected[logits], rtol=1e-5, atol=1e-5)


# their option kernel_size, and ours
NOT_DECOMPOSED = {
    'reparam': ((31, 29, 27, 13, 5), dict(kernel_sizes=(31, 29, 27, 13), small_kernel_size=5, large_kernel='reparam')),
    'convnext': ((7, 7, 7, 7, 100), dict(kernel_sizes=(7, 7, 7, 7), large_kernel='naive')),
    'naive': ((51, 49, 47, 13, 100), dict(kernel_sizes=(51, 49, 47, 13), large_kernel='naive')),
    'some stages': ((7, 7, 27, 13, 5), dict(kernel_sizes=(7, 7, 27, 13), small_kernel_size=5, large_kernel='reparam')),
    'some small': ((7, 7, 27, 13, 7), dict(kernel_sizes=(7, 7, 27, 13), small_kernel_size=7, large_kernel='reparam')),
}


@pytest.mark.parametrize('kind', NOT_DECOMPOSED)
def test_logits_of_official_files_that_are_not_decomposed(save, kind):
    kernel_size, kwargs = NOT_DECOMPOSED[kind]
    weights, average = official_file(kernel_size), official_file(kernel_size, seed=1)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    path = save(dict(model=weights, model_ema=average, epoch=119, args=argparse.Namespace(kernel_size=kernel_size, Decom=False)))
    for key, theirs in (('model', weights), ('model_ema', average)):
        logits = official_logits(theirs, images, kernel_size)
        assert logits.std() > .1
        model = official_classifier(path, key, **kwargs)
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)
        model.backbone.switch_to_deploy()
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)
        merged = official_classifier(save(dict(model=merged_file(theirs)), 'merged.pth'), **kwargs, deploy=True)
        torch.testing.assert_close(merged(images), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', NOT_DECOMPOSED)
def test_infer_config_of_official_files_that_are_not_decomposed(kind):
    kernel_size, kwargs = NOT_DECOMPOSED[kind]
    converted = convert_state_dict(official_file(kernel_size))
    config = infer_config({name[len('backbone.'):]: value for name, value in converted.items() if name.startswith('backbone.')})
    assert config == dict(arch=dict(depths=(1, 1, 2, 1), channels=(6, 7, 8, 9)), width_factor=1.0, in_channels=3, **kwargs)


# ---- the variants in the wild ----------------------------------------------------------------------------------------


def rename(state_dict, **names):
    result = {}
    for key, value in state_dict.items():
        for old, new in names.items():
            key = key.replace(f'.{old}.', f'.{new}.')
        result[key] = value
    return result


def variants(model):
    downstream = {f'backbone.{k}': v for k, v in model.items() if not k.startswith(('norm', 'head'))}
    downstream['backbone.norm0.weight'] = torch.full((10, ), 2.)
    downstream['decode_head.conv_seg.weight'] = torch.zeros(3, 3, 1, 1)
    converted = convert_state_dict(model)
    return dict(
        official=dict(model=model, epoch='best-ema', args=argparse.Namespace(kernel_size=[51])),
        bare=model,
        early=dict(model=rename(model, LoRA1='Decom1', LoRA2='Decom2')),
        ddp=dict(model={f'module.{k}': v for k, v in model.items()}),
        downstream=dict(meta=dict(), state_dict=downstream, optimizer={}),
        converted=dict(meta=dict(), state_dict=converted),
        ema_of_mmengine=dict(state_dict={f'module.{k}': v for k, v in converted.items()}),
    )


@pytest.mark.parametrize('prefix', [None, 'backbone', 'backbone.'])
@pytest.mark.parametrize('name', ['official', 'bare', 'early', 'ddp', 'downstream', 'converted', 'ema_of_mmengine'])
def test_each_variant_loads(micro, raw, expected, save, name, prefix):
    assert_parity(load(micro, save(variants(raw['model'])[name]), prefix=prefix), expected)


def test_downstream_norms_are_kept(micro, raw, save):
    model = load(micro, save(variants(raw['model'])['downstream']))
    assert (model.norm0.weight == 2).all() and (model.norm1.weight == 1).all()


def test_a_classifiers_norm_enters_only_where_it_pools(micro, raw, save):
    converted = convert_state_dict(raw['model'])
    path = save(dict(state_dict={k.replace('backbone.norm.', 'backbone.norm3.'): v for k, v in converted.items()}))
    assert (load(micro, path).norm3.weight == 1).all()
    pooling = dict(micro, out_indices=-1, gap_before_final_norm=True)
    torch.testing.assert_close(load(pooling, path).norm3.weight.data, raw['model']['norm.weight'])


@pytest.mark.parametrize('form, names', [('reparam', dict(full='lkb_origin', small='small_conv')), ('naive', dict(full='lkb_origin'))])
def test_official_files_that_are_not_decomposed(micro, save, form, names):
    kwargs = dict(micro, large_kernel=form, kernel_sizes=(7, 7, 7, 7))
    model = SLaK(**kwargs)
    model.init_weights()
    images = torch.randn(1, 3, 32, 32)
    expected = stage_outs(model.eval(), images)
    state_dict = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith('norm')}
    loaded = load(kwargs, save(dict(model=rename(state_dict, **names))))
    for ours, theirs in zip(stage_outs(loaded, images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    model.switch_to_deploy()
    merged = {k.replace('full.conv', 'lkb_reparam'): v for k, v in model.state_dict().items() if not k.startswith('norm')}
    loaded = load(dict(kwargs, deploy=True), save(dict(model=merged)))
    for ours, theirs in zip(stage_outs(loaded, images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_several_backbones_need_a_prefix(micro, raw, save, expected):
    both = {f'{who}.backbone.{k}': v for who in ('teacher', 'student') for k, v in raw['model'].items()
            if not k.startswith('head')}
    path = save(dict(state_dict=both))
    with pytest.raises(CheckpointError, match='student.backbone.*must name one'):
        load(micro, path)
    assert_parity(load(micro, path, prefix='student.backbone.'), expected)


def test_a_whole_model_resumes_official_names_through_torch(micro, raw):
    model = SLaK(**micro)
    model.load_state_dict({k: v for k, v in raw['model'].items() if not k.startswith('head')}, strict=False)
    torch.testing.assert_close(model.stages[0][0].large_kernel.tall.conv.weight.data,
                               raw['model']['stages.0.0.large_kernel.LoRA1.conv.weight'])


def test_other_modules_keep_mmengines_initializer(tmp_path):
    from mmengine.model import BaseModule

    class Plain(BaseModule):

        def __init__(self, **kwargs):
            super().__init__(init_cfg=pretrained(tmp_path / 'plain.pth', **kwargs))
            self.fc = torch.nn.Linear(2, 2)

    torch.save({'fc.weight': torch.ones(2, 2), 'fc.bias': torch.ones(2)}, tmp_path / 'plain.pth')
    plain = Plain()
    plain.init_weights()
    assert (plain.fc.weight == 1).all()
    with pytest.raises(ValueError, match='key='):
        Plain(key='model_ema').init_weights()


# ---- one line says what was loaded -----------------------------------------------------------------------------------


def test_one_line_names_what_stays_at_its_initial_value(micro, official, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.engine.pretrained.print_log', lambda line, **_: lines.append(line))
    load(micro, official)
    assert lines == [f'Loaded 141 of 149 tensors from {official}; left at their initial value: norm0, norm1, norm2, norm3; '
                     'in the file but not used: none.']


# ---- shapes ----------------------------------------------------------------------------------------------------------


def test_infer_config(raw):
    backbone = {k[len('backbone.'):]: v for k, v in convert_state_dict(raw['model']).items() if k.startswith('backbone.')}
    assert infer_config(backbone) == dict(
        arch=dict(depths=(1, 1, 2, 1), channels=(10, 15, 20, 26)), width_factor=1.0, in_channels=3, kernel_sizes=(51, 49, 47, 13),
        small_kernel_size=5, large_kernel='decomposed')


@pytest.mark.parametrize('kwargs', [
    dict(arch='tiny'), dict(arch='base'),
    dict(arch='small', width_factor=1.0, kernel_sizes=(31, 29, 27, 13), large_kernel='reparam'),
    dict(arch='tiny', width_factor=1.5, small_kernel_size=3), dict(arch='tiny', large_kernel='naive', kernel_sizes=(7, 7, 7, 7)),
    dict(arch='tiny', deploy=True), dict(arch='tiny', layer_scale_init_value=0.),
    dict(arch='tiny', large_kernel='sequential', small_kernel_size=3), dict(arch='tiny', large_kernel='sequential', deploy=True),
    dict(arch='tiny', large_kernel='dilated', kernel_sizes=(19, 17, 17, 5)),
    dict(arch='tiny', large_kernel='dilated', kernel_sizes=(1, 1, 1, 1), small_kernel_size=1),
    dict(arch='tiny', large_kernel='stacked', kernel_sizes=(21, 21, 21, 21), width_factor=1.0),
    dict(arch='tiny', large_kernel='stacked', kernel_sizes=(7, 7, 7, 7), small_kernel_size=7),
    dict(arch='tiny', large_kernel=('naive', 'naive', 'reparam', 'reparam'), kernel_sizes=(7, 7, 27, 13)),
    dict(arch='tiny', large_kernel=('decomposed', 'sequential', 'dilated', 'stacked'), kernel_sizes=(51, 49, 17, 21))])
def test_infer_config_gives_back_the_arguments(kwargs):
    with torch.device('meta'):
        model = SLaK(**kwargs)
        config = infer_config(model.state_dict(), SLaK.arch_settings)
        again = SLaK(**config)
    assert {**config, **kwargs} == config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize('change, lines', [
    (dict(kernel_sizes=(31, 29, 27, 13)), ['kernel_sizes=(51, 49, 47, 13),  # instead of (31, 29, 27, 13)']),
    (dict(small_kernel_size=3), ['small_kernel_size=5,  # instead of 3']),
    (dict(arch=dict(depths=(1, 1, 1, 1), channels=(8, 12, 16, 20))), ["arch={'depths': (1, 1, 2, 1)"]),
    (dict(width_factor=2.0), ["'channels': (10, 15, 20, 26)}"]),
    (dict(large_kernel='naive'), ["large_kernel='decomposed',  # instead of 'naive'"]),
    (dict(large_kernel='sequential'), ["large_kernel='decomposed',  # instead of 'sequential'"]),
    (dict(large_kernel=('naive', 'naive', 'decomposed', 'decomposed')), ["large_kernel='decomposed',  # instead of ('naive', "]),
    (dict(in_channels=4), ['in_channels=3,  # instead of 4']),
    (dict(deploy=True), ['deploy=False']),
    (dict(layer_scale_init_value=0.), ['weights are missing, unknown or of another shape: stages.0.0.gamma']),
])
def test_a_mismatch_names_the_config_line(micro, official, change, lines):
    model = SLaK(**dict(micro, **change), init_cfg=pretrained(official))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match='does not fit') as error:
        model.init_weights()
    for line in lines:
        assert line in str(error.value)
    torch_error = pytest.raises(CheckpointError, model.load_state_dict, torch.load(official, weights_only=True)['model'])
    assert 'nothing was loaded' in str(torch_error.value)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if 'num_batches' in k or 'running' in k)


def test_a_head_of_another_size_is_refused(micro, official):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='ImageClassifier', backbone=dict(type='slak_mm.SLaK', **dict(micro, out_indices=-1, gap_before_final_norm=True)),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=26), init_cfg=pretrained(official)))
        with pytest.raises(CheckpointError, match=r'head.fc.weight is \(7, 26\) in the file and \(10, 26\)'):
            model.init_weights()


# ---- bad files: a clear error, nothing loaded, nothing run -----------------------------------------------------------


class Hostile:

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f'touch {self.target}', )


class HostileGetattr:
    """mmengine's own files ask for getattr, so it is allowed under conditions: these are not they."""

    def __reduce__(self):
        return getattr, (OrderedDict, '__init__')


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('kind', ['system', 'getattr'])
def test_a_hostile_pickle_never_runs(micro, raw, tmp_path, kind, legacy):
    target = tmp_path / 'ran'
    hostile = Hostile(target) if kind == 'system' else HostileGetattr()
    path = tmp_path / 'hostile.pth'
    torch.save(dict(model=raw['model'], args=hostile), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match='is refused|cannot be read'):
        load(micro, path)
    with pytest.raises((pickle.UnpicklingError, ValueError)):  # stock tools read files this way
        torch.load(path)
    assert not target.exists()


@pytest.mark.parametrize('share', [0., .5, .99])
def test_a_truncated_file(micro, official, tmp_path, share):
    content = official.read_bytes()
    path = tmp_path / 'short.pth'
    path.write_bytes(content[:int(share * len(content))])
    with pytest.raises(CheckpointError, match='short.pth cannot be read: it is cut short'):
        load(micro, path)


def test_a_file_that_matches_nothing(micro, save):
    with pytest.raises(CheckpointError, match=r"holds no SLaK.*\['conv1.weight', 'layer1.0'\]"):
        load(micro, save({'conv1.weight': torch.zeros(1), 'layer1.0.weight': torch.zeros(1)}))


def test_a_missing_file(micro, tmp_path):
    with pytest.raises(FileNotFoundError, match='README.md says where'):
        load(micro, tmp_path / 'absent.pth')


def test_a_key_that_is_not_there(micro, official):
    with pytest.raises(CheckpointError, match=r"no weights under key='ema'.*\['model', 'model_ema'\]"):
        load(micro, official, key='ema')


@pytest.mark.parametrize('content', [[1, 2], torch.zeros(2)])
def test_not_a_dict(save, content):
    with pytest.raises(CheckpointError, match='not a dict of weights'):
        load_file(save(content))


def test_no_weights_at_all(save):
    with pytest.raises(CheckpointError, match='weights neither at its top level'):
        select_state_dict(load_file(save(dict(epoch=3))))


# ---- URLs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local server whose links end alike, as the authors' do; and an empty cache."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    root = tmp_path / 'www'
    root.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield root, f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


def test_two_urls_never_share_a_file(server):
    root, url = server
    for i, name in enumerate(('a', 'b')):
        (root / 's' / name).mkdir(parents=True)
        torch.save({'weight': torch.full((1, ), float(i))}, root / 's' / name / 'download')
    for _ in range(2):
        assert [load_file(f'{url}/s/{name}/download')['weight'].item() for name in ('a', 'b')] == [0., 1.]
    for name in ('a', 'b'):  # the second time came from the cache
        (root / 's' / name / 'download').unlink()
    assert load_file(f'{url}/s/b/download')['weight'].item() == 1.


def test_init_cfg_takes_a_url(server, micro, official, expected):
    root, url = server
    (root / 'download').write_bytes(official.read_bytes())
    assert_parity(load(micro, f'{url}/download'), expected)


def test_a_dead_link(server, micro):
    with pytest.raises(CheckpointError, match='cannot be downloaded.*404'):
        load(micro, f'{server[1]}/absent')
