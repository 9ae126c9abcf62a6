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
    (dict(decay_rate=.9, norm_decay_mult=0.), ValueError, 'num_layers'),
    (dict(decay_type='stage_wise'), ValueError, 'must have decay_rate'),
])
def test_wrong_options_are_refused(models, paramwise_cfg, error, message):
    with pytest.raises(error, match=message):
        scales(models['tiny'], **paramwise_cfg)


def test_a_backbone_without_depth_is_refused():
    with pytest.raises(TypeError, match='get_layer_depth'):
        scales(nn.Sequential(nn.Linear(2, 2)), decay_rate=.9)
