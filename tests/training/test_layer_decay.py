import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from slak_mm.models import SLaK


class Model(nn.Module):

    def __init__(self, arch='tiny', out_indices=(0, 1, 2, 3)):
        super().__init__()
        self.backbone = SLaK(arch, out_indices=out_indices, gap_before_final_norm=False)
        self.head = nn.Linear(4, 4)


@pytest.fixture(scope='module')
def models():
    with torch.device('meta'):
        return dict(tiny=Model('tiny'), small=Model('small'))


def scales(model, scope='mmseg', **paramwise_cfg):
    """lr_scale and weight decay of each parameter, by name."""
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=.05), paramwise_cfg=paramwise_cfg,
               constructor='slak_mm.LayerDecayOptimWrapperConstructor')
    with DefaultScope.overwrite_default_scope(scope):
        groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {param: name for name, param in model.named_parameters()}
    found = {names[param]: (group['lr_scale'], group['weight_decay']) for group in groups for param in group['params']}
    assert set(found) == set(names.values())
    for group in groups:
        assert group['lr'] == pytest.approx(1e-4 * group['lr_scale'])
    return found


# reference/recipes: scale = decay ** (num_layers + 2 - id - 1)
def expected_id(name, decay_type, num_layers):
    parts = name.split('.')
    if parts[:2] == ['backbone', 'downsample_layers']:
        return 0 if decay_type == 'stage_wise' else {0: 0, 1: 2, 2: 3, 3: num_layers}[int(parts[2])]
    if parts[:2] == ['backbone', 'stages']:
        stage, block = int(parts[2]), int(parts[3])
        if decay_type == 'stage_wise':
            return stage + 1
        return {0: 1, 1: 2, 2: 3 + block // 3, 3: num_layers}[stage]
    return num_layers + 1


@pytest.mark.parametrize('arch, num_layers', [('tiny', 6), ('small', 12)])
@pytest.mark.parametrize('decay_type, decay_rate', [('stage_wise', .9), ('layer_wise', .7)])
def test_equals_the_oracle(models, arch, num_layers, decay_type, decay_rate):
    found = scales(models[arch], decay_rate=decay_rate, decay_type=decay_type, num_layers=num_layers)
    params = dict(models[arch].named_parameters())
    for name, (lr_scale, weight_decay) in found.items():
        assert lr_scale == pytest.approx(decay_rate**(num_layers + 2 - expected_id(name, decay_type, num_layers) - 1)), name
        assert weight_decay == (0 if params[name].ndim == 1 or name.endswith('.bias') else .05), name


def test_published_figures(models):
    found = scales(models['tiny'], decay_rate=.9, decay_type='stage_wise', num_layers=6)
    assert found['backbone.downsample_layers.3.1.weight'][0] == pytest.approx(.4783, abs=5e-5)
    assert [found[f'backbone.stages.{i}.0.gamma'][0] for i in range(4)] == pytest.approx([.5314, .5905, .6561, .729], abs=5e-5)
    found = scales(models['small'], decay_rate=.9, decay_type='stage_wise', num_layers=12)
    assert found['backbone.downsample_layers.0.0.weight'][0] == pytest.approx(.2542, abs=5e-5)
    assert [found[f'backbone.stages.{i}.0.gamma'][0] for i in range(4)] == pytest.approx([.2824, .3138, .3487, .3874], abs=5e-5)
    found = scales(models['tiny'], decay_rate=.7, num_layers=6)
    assert sorted({scale for scale, _ in found.values()}) == pytest.approx(
        [.08235, .11765, .16807, .2401, .343, .49, .7, 1.], abs=5e-5)


@pytest.mark.parametrize('scope', ['mmdet', 'mmpretrain'])
def test_the_other_libraries(models, scope):
    assert scales(models['tiny'], scope, decay_rate=.9) == scales(models['tiny'], decay_rate=.9)


def test_frozen_parameters_are_left_out():
    with torch.device('meta'):
        model = Model()
        model.head.requires_grad_(False)
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=.05), paramwise_cfg=dict(decay_rate=.9),
               constructor='slak_mm.LayerDecayOptimWrapperConstructor')
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    trained = {id(p) for group in groups for p in group['params']}
    assert not trained & {id(p) for p in model.head.parameters()}


@pytest.mark.parametrize('paramwise_cfg, error, message', [
    (dict(decay_rate=.9, num_layers=12), ValueError, 'set num_layers=6'),
    (dict(decay_rate=.9, decay_type='block_wise'), ValueError, "'layer_wise' or 'stage_wise'"),
    (dict(layer_decay_rate=.9), ValueError, 'must have decay_rate'),  # mmpretrain's word
    (dict(decay_rate=.9, norm_decay_mul=0.), ValueError, 'norm_decay_mult'),
    (dict(decay_rate='.9'), ValueError, 'decay_rate must be a positive number'),
    (dict(decay_type='stage_wise'), ValueError, 'must have decay_rate'),
])
def test_wrong_options_are_refused(models, paramwise_cfg, error, message):
    with pytest.raises(error, match=message):
        scales(models['tiny'], **paramwise_cfg)


def test_a_backbone_without_depth_is_refused():
    with pytest.raises(TypeError, match='get_layer_depth'):
        scales(nn.Sequential(nn.Linear(2, 2)), decay_rate=.9)


class Segmentor(nn.Module):
    """With what a transformer head has: queries, levels, norms."""

    def __init__(self, backbone='backbone'):
        super().__init__()
        self.add_module(backbone, SLaK('tiny', out_indices=(0, 1, 2, 3), gap_before_final_norm=False))
        self.query_embed, self.norm, self.fc = nn.Embedding(4, 8), nn.GroupNorm(2, 8), nn.Linear(8, 8)
        self.again = self.fc  # one parameter under two names


def groups(model, **paramwise_cfg):
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=.05), paramwise_cfg=paramwise_cfg,
               constructor='slak_mm.LayerDecayOptimWrapperConstructor')
    found = build_optim_wrapper(model, cfg).optimizer.param_groups
    return {name: group for group in found for name in group['param_names']}


@pytest.fixture(scope='module')
def segmentor():
    with torch.device('meta'):
        return Segmentor()


def test_embeddings_of_a_head_do_not_decay(segmentor):
    found = groups(segmentor, decay_rate=.9)
    assert found['query_embed.weight']['weight_decay'] == found['norm.weight']['weight_decay'] == 0
    assert found['fc.weight']['weight_decay'] == .05 and 'again.weight' not in found
    assert set(found) == {name for name, _ in segmentor.named_parameters()}


def test_custom_keys_beside_layer_decay(segmentor):
    keys = {'query_embed': dict(lr_mult=2., decay_mult=.5), 'fc': dict(lr_mult=3.),
            'backbone.stages.0': dict(lr_mult=.1, decay_mult=0.)}
    plain = groups(segmentor, decay_rate=.9)
    found = groups(segmentor, decay_rate=.9, custom_keys=keys, norm_decay_mult=1.)
    assert found['query_embed.weight']['lr'] == pytest.approx(2e-4) and found['query_embed.weight']['weight_decay'] == .025
    assert found['norm.weight']['weight_decay'] == .05 and found['fc.weight']['lr'] == pytest.approx(3e-4)
    for name in ('backbone.stages.0.0.pwconv1.weight', 'backbone.stages.0.2.gamma'):
        assert found[name]['lr'] == pytest.approx(.1 * plain[name]['lr']) and found[name]['weight_decay'] == 0
    name = 'backbone.stages.1.0.pwconv1.weight'
    assert found[name]['lr'] == plain[name]['lr'] and found[name]['weight_decay'] == .05


def test_custom_keys_that_match_nothing_are_named(segmentor, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.training.layer_decay.print_log', lambda line, *args, **kwargs: lines.append(line))
    groups(segmentor, decay_rate=.9, custom_keys=dict(query_embd=dict(decay_mult=0.), fc=dict(lr_mult=1.)))
    assert 'no parameter has query_embd in its name' in lines[0]


@pytest.mark.parametrize('wrap, places', [
    (lambda: nn.ModuleDict(dict(detector=Segmentor())), ['detector.backbone']),
    (lambda: nn.ModuleDict(dict(student=Segmentor(), teacher=Segmentor())), ['student.backbone', 'teacher.backbone']),
    (lambda: Segmentor('img_backbone'), ['img_backbone'])])
@pytest.mark.parametrize('decay_type', ['stage_wise', 'layer_wise'])
def test_the_backbone_is_found_wherever_it_is(segmentor, wrap, places, decay_type):
    with torch.device('meta'):
        model = wrap()
    plain = groups(segmentor, decay_rate=.9, decay_type=decay_type)
    found = groups(model, decay_rate=.9, decay_type=decay_type)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, group in plain.items():
        if name.startswith('backbone.'):
            for place in places:
                assert found[place + name[len('backbone'):]]['lr'] == group['lr'], name
    assert all(group['lr'] == 1e-4 for name, group in found.items() if not name.startswith(tuple(places)))


@pytest.mark.parametrize('decay_rate', [1, np.float32(.9), np.float64(.9), True])
def test_numbers(segmentor, decay_rate):
    if decay_rate is True:
        with pytest.raises(ValueError, match='decay_rate'):
            groups(segmentor, decay_rate=decay_rate)
    else:
        assert groups(segmentor, decay_rate=decay_rate, num_layers=np.int64(6))['fc.weight']['lr'] == 1e-4


def test_the_config_is_not_changed(segmentor):
    options = dict(decay_rate=.9, custom_keys=dict(fc=dict(lr_mult=2.)))
    kept = dict(options)
    groups(segmentor, **options)
    assert options == kept


def test_a_classifier_of_mmpretrain():
    """It has a get_layer_depth of its own, which asks its backbone."""
    classifiers = pytest.importorskip('mmpretrain.models.classifiers')
    with torch.device('meta'):
        model = classifiers.ImageClassifier(backbone=dict(type='slak_mm.SLaK'), head=dict(type='LinearClsHead', num_classes=3,
                                                                                           in_channels=998))
    found = groups(model, decay_rate=.9)
    assert found['head.fc.weight']['lr_scale'] == 1 and found['backbone.downsample_layers.0.0.weight']['lr_scale'] < .5
