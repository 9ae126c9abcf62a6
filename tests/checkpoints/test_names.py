"""Official files, and all others in the wild, under our names."""
import argparse

import pytest
import torch
from checkpoint_helpers import assert_parity, load, pretrained, stage_outs
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from versions import needs_torch

from slak_mm.checkpoints import CheckpointError, PretrainedInit, check_fits, convert_state_dict, infer_config
from slak_mm.compat import load_weights_only
from slak_mm.models import SLaK


@pytest.fixture(scope='module')
def raw(request):
    return load_weights_only(request.config.rootpath / 'tests/data/slak_micro.pth', 'cpu')


@pytest.fixture
def save(tmp_path):

    def save(content, name='file.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save


# ---- the variants in the wild -----------------------------------------------------------------------------------------


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
    for ours, theirs in zip(stage_outs(loaded, images), expected):
        torch.testing.assert_close(ours, theirs)
    model.switch_to_deploy()
    merged = {k.replace('full.conv', 'lkb_reparam'): v for k, v in model.state_dict().items() if not k.startswith('norm')}
    loaded = load(dict(kwargs, deploy=True), save(dict(model=merged)))
    for ours, theirs in zip(stage_outs(loaded, images), expected):
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


# ---- one line says what was loaded ------------------------------------------------------------------------------------


def test_one_line_names_what_stays_at_its_initial_value(micro, official, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.checkpoints.pretrained.print_log', lambda line, **_: lines.append(line))
    load(micro, official)
    assert lines == [f'Loaded 141 of 149 tensors from {official}; left at their initial value: norm0, norm1, norm2, norm3; '
                     'in the file but not used: none.']


# ---- shapes -----------------------------------------------------------------------------------------------------------


def test_infer_config(raw):
    backbone = {k[len('backbone.'):]: v for k, v in convert_state_dict(raw['model']).items() if k.startswith('backbone.')}
    assert infer_config(backbone) == dict(
        arch=dict(depths=(1, 1, 2, 1), channels=(10, 15, 20, 26)), width_factor=1.0, in_channels=3, kernel_sizes=(51, 49, 47, 13),
        small_kernel_size=5, large_kernel='decomposed')


@needs_torch('2.0')
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
    torch_error = pytest.raises(CheckpointError, model.load_state_dict, load_weights_only(official, 'cpu')['model'])
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


# ---- wrappers, and backbones under other names ------------------------------------------------------------------------


@pytest.fixture
def segmentor(raw):
    """Official names of a segmentor: backbone and two heads."""
    weights = {f'backbone.{k}': v for k, v in raw['model'].items() if not k.startswith(('norm', 'head'))}
    return {**weights, 'decode_head.conv_seg.weight': torch.ones(3, 8, 1, 1), 'auxiliary_head.conv_seg.bias': torch.ones(3)}


def replaced(state_dict, old, new):
    return {name.replace(old, new, 1): value for name, value in state_dict.items()}


@pytest.mark.parametrize('old, new', [
    ('backbone.', 'backbone._orig_mod.'), ('backbone.', 'backbone.module.'), ('backbone.', 'backbone._fsdp_wrapped_module.'),
    ('backbone.stages.0.', 'backbone.stages.0._orig_mod.'), ('', 'module._orig_mod.'), ('decode_head.', 'decode_head.module.'),
    ('.large_kernel.', '.large_kernel._checkpoint_wrapped_module.'), ('', 'model.'), ('', 'module.student.'),
    ('backbone.', 'encoder.'), ('backbone.', 'img_backbone.')])
def test_no_weight_is_lost_in_a_wrapper(segmentor, old, new):
    plain = convert_state_dict(segmentor)
    converted = convert_state_dict(replaced(segmentor, old, new))
    assert len(plain) == len(segmentor) and converted.keys() == plain.keys()


def test_what_belongs_to_another_model_is_left_out_with_a_warning(segmentor, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.checkpoints.names.print_log', lambda line, *_: lines.append(line))
    both = {**replaced(segmentor, '', 'student.'), 'teacher.head.weight': torch.ones(1)}
    assert convert_state_dict(both).keys() == convert_state_dict(segmentor).keys()
    assert len(lines) == 1 and '1 weights' in lines[0] and 'teacher.head' in lines[0]


def test_a_classifier_beside_other_things(raw):
    other = {**{f'model.{name}': value for name, value in raw['model'].items()}, 'criterion.weight': torch.ones(2)}
    assert convert_state_dict(other).keys() == convert_state_dict(raw['model']).keys()


class Whole(torch.nn.Module):
    """A model whose SLaK is at ``place``, and a head beside it."""

    def __init__(self, micro, place='backbone'):
        super().__init__()
        *parents, name = place.split('.')
        inner = torch.nn.Module()
        inner.add_module(name, SLaK(**micro))
        inner.add_module('decode_head', torch.nn.Linear(2, 2))
        for parent in parents:
            outer = torch.nn.Module()
            outer.add_module(parent, inner)
            inner = outer
        self._modules.update(inner._modules)


@pytest.mark.parametrize('place', ['backbone', 'detector.backbone', 'img_backbone', 'encoder'])
@pytest.mark.parametrize('wrap', [lambda name: name, lambda name: name.replace('backbone.', 'backbone._orig_mod.'),
                                  lambda name: f'model.{name}'])
def test_names_become_those_of_the_model(micro, place, wrap):
    weights = {wrap(name): value + 1 for name, value in Whole(micro).state_dict().items()}
    model = Whole(micro, place)
    check_fits(weights, model)
    model.load_state_dict(weights)


@pytest.mark.parametrize('place', ['backbone', 'detector.backbone', 'img_backbone'])
def test_initialized_wherever_the_backbone_is(micro, official, place):
    model = Whole(micro, place)
    PretrainedInit(checkpoint=str(official))(model)
    plain = Whole(micro)
    PretrainedInit(checkpoint=str(official))(plain)
    assert torch.equal(model.get_submodule(place).stages[3][0].pwconv2.weight, plain.backbone.stages[3][0].pwconv2.weight)


def test_several_backbones_each_need_an_init_cfg(micro, official):
    both = torch.nn.ModuleDict(dict(student=Whole(micro), teacher=Whole(micro)))
    with pytest.raises(CheckpointError, match='student.backbone, teacher.backbone'):
        PretrainedInit(checkpoint=str(official))(both)
