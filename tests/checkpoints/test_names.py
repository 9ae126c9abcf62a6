"""Official files, and all others in the wild, under our names."""
import argparse

import pytest
import torch
from checkpoint_helpers import assert_parity, load, pretrained, stage_outs
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from versions import needs_torch

from slak_mm.checkpoints import CheckpointError, convert_state_dict, infer_config
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
