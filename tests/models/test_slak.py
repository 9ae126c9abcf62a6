import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as pretrain_models
from versions import needs_torch

from slak_mm.checkpoints import CheckpointError, infer_config
from slak_mm.models import SLaK
from slak_mm.models.large_kernel import FORMS, LargeKernel

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
# torch 1.13 refuses to train SyncBN, the default, on a CPU
NORM = {} if hasattr(torch, 'compile') else dict(norm_cfg=dict(type='BN'))


def build(**kwargs):
    torch.manual_seed(0)
    model = SLaK(**NORM, **kwargs)
    model.init_weights()
    return model


@needs_torch('2.0')
@pytest.mark.parametrize('arch, count', [('tiny', 50_703_838), ('small', 91_131_820), ('base', 157_950_792), ('large', 346_624_518)])
def test_dense_parameters_with_a_1000_class_head(arch, count):
    with torch.device('meta'):
        model = SLaK(arch)
    assert sum(p.numel() for p in model.parameters()) + 1000 * (model.channels[-1] + 1) == count


@needs_torch('2.0')
def test_convnext_is_the_same_class():
    with torch.device('meta'):
        model = SLaK('tiny', kernel_sizes=(7, 7, 7, 7), width_factor=1.0, large_kernel='naive')
    count = sum(p.numel() for p in model.parameters()) + 1000 * 769
    assert count == 28_595_752
    # mmpretrain's, like the original, has a bias in each depthwise convolution: one number a channel, where a batch norm has two
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        convnext = pretrain_models.build(dict(type='ConvNeXt', arch='tiny'))
    channels = sum(depth * width for depth, width in zip(model.depths, model.channels))
    assert count - channels == sum(p.numel() for p in convnext.parameters()) + 1000 * 769 == 28_589_128


@needs_torch('2.0')
def test_channels_are_widened_and_cut():
    with torch.device('meta'):
        assert SLaK('tiny').channels == (124, 249, 499, 998)
        assert SLaK('base').channels == (166, 332, 665, 1331)


def test_outputs(micro):
    outs = build(**micro).eval()(IMAGES)
    assert [tuple(out.shape) for out in outs] == [(2, 10, 16, 24), (2, 15, 8, 12), (2, 20, 4, 6), (2, 26, 2, 3)]
    assert all(out.is_contiguous() for out in outs)  # mmcv's RoIAlign reads data_ptr
    pooled, = build(**dict(micro, out_indices=-1, gap_before_final_norm=True)).eval()(IMAGES)
    torch.testing.assert_close(pooled.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    assert pooled.shape == (2, 26)
    last, second = build(**dict(micro, out_indices=[-1, 1])).eval()(IMAGES)[::-1]
    assert last.shape[1] == 26 and second.shape[1] == 15


MIXED = ('naive', 'stacked', 'reparam', 'dilated')


@pytest.mark.parametrize('form', [*FORMS, MIXED])
def test_switch_to_deploy(micro, form):
    model = build(**micro, large_kernel=form, kernel_sizes=(13, 11, 9, 7)).train()
    with torch.no_grad():
        for _ in range(3):
            model(IMAGES + 1)
    model.eval()
    expected = model(IMAGES)
    model.switch_to_deploy()
    model.switch_to_deploy()
    for ours, theirs in zip(model(IMAGES), expected):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    deployed = SLaK(**micro, large_kernel=form, kernel_sizes=(13, 11, 9, 7), deploy=True)
    deployed.load_state_dict(model.state_dict())
    for ours, theirs in zip(deployed.eval()(IMAGES), model(IMAGES)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('form', [*FORMS, MIXED])
def test_every_form_trains(micro, form):
    model = build(**micro, large_kernel=form, kernel_sizes=(13, 11, 9, 7), layer_scale_init_value=.5).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    target = torch.randn(2, 26, 2, 3)
    losses = []
    for _ in range(4):
        loss = (model(IMAGES)[-1] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        kernels = [(name, p.grad) for name, p in model.named_parameters() if '.large_kernel.' in name]
        assert all(grad.abs().sum() > 0 for name, grad in kernels if name.endswith('conv.weight'))
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def check_compiled(model):
    """Without a graph break, for images of other sizes too: from the second size on, sizes are variables to the compiler.

    Sizes 2 and 3 are on the same side of each branch, so that they share what is compiled.
    """
    torch.compiler.reset()  # there is a limit to what is compiled of one function, whichever model's
    compiled = torch.compile(model.eval(), backend='eager', fullgraph=True)
    with torch.no_grad():
        for size in ((64, 96), (96, 64), (100, 68)):
            images = F.interpolate(IMAGES, size)
            for actual, expected in zip(compiled(images), model(images)):
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@needs_torch('2.4')
def test_every_form_compiles_whole(micro):
    forms = ['sequential', 'dilated', 'stacked', 'naive']  # the one of the paper has a test below
    check_compiled(build(**micro, large_kernel=forms, kernel_sizes=(9, 9, 9, 7), layer_scale_init_value=.5))


def test_forms_by_stage(micro):
    kinds = [[name for name, _ in stage[0].large_kernel.named_children()]
             for stage in SLaK(**micro, large_kernel=list(MIXED), kernel_sizes=(7, 21, 27, 5)).stages]
    assert kinds == [['full'], ['sequence', 'small'], ['full', 'small'], ['dilated', 'small']]


def test_frozen_stages(micro):
    model = build(**micro, frozen_stages=2).train()
    sum(out.sum() for out in model(IMAGES)).backward()
    for name, param in model.named_parameters():
        frozen = name.startswith(('downsample_layers.0', 'downsample_layers.1', 'stages.0', 'stages.1'))
        assert (param.grad is None) == frozen, name
    assert not model.stages[1].training and model.stages[2].training
    assert model.stages[0][0].large_kernel.tall.bn.running_mean.abs().sum() == 0


@pytest.mark.parametrize('gap', [True, False])
def test_stages_that_no_output_needs_are_not_built(micro, gap):
    options = dict(micro, gap_before_final_norm=gap, drop_path_rate=.3)
    whole, part = build(**options), build(**dict(options, out_indices=(2, 0))).train()
    assert len(part.stages) == len(part.downsample_layers) == 3
    sum(out.square().sum() for out in part(IMAGES)).backward()
    assert all(parameter.grad is not None for parameter in part.parameters())  # or DDP would stop, and SNIP have no score
    assert [block.drop_path for block in part.stages[2]][-1].drop_prob == [block.drop_path for block in whole.stages[2]][-1].drop_prob
    depths = {name: whole.get_layer_depth(name) for name, _ in whole.named_parameters()}
    assert all(part.get_layer_depth(name) == depths[name] for name, _ in part.named_parameters())


def test_a_file_with_all_stages_loads_into_one_without_the_last(micro, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.checkpoints.fit.print_log', lambda line, *_: lines.append(line))
    whole, part = build(**micro).eval(), build(**dict(micro, out_indices=(0, 1, 2))).eval()
    weights = whole.state_dict()
    part.load_state_dict(weights)
    assert 'stages [3]' in lines[0] and len(lines) == 1 and 'stages.3.0.gamma' in weights
    for ours, theirs in zip(part(IMAGES), whole(IMAGES)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match='only the first 3 stages.*out_indices'):
        whole.load_state_dict(part.state_dict())
    with pytest.raises(CheckpointError, match='layer_scale_init_value=0.0'):
        part.load_state_dict(build(**micro, layer_scale_init_value=0.).state_dict())
    config = infer_config(part.state_dict(), SLaK.arch_settings)
    assert config['out_indices'] == 2
    SLaK(**config, gap_before_final_norm=False).load_state_dict(part.state_dict(), strict=False)


def test_with_cp_changes_memory_only(micro):
    plain, checkpointed = build(**micro, drop_path_rate=0.5), build(**micro, drop_path_rate=0.5, with_cp=True)
    for model in (plain, checkpointed):
        torch.manual_seed(1)
        model.train()
        sum(out.square().sum() for out in model(IMAGES)).backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), checkpointed.buffers()):
        torch.testing.assert_close(a, b, msg=name)  # running statistics took the batch once


@pytest.mark.parametrize('training', [True, False])
def test_the_fast_path_equals_the_modules_called_one_by_one(micro, training):
    model = build(**micro, layer_scale_init_value=.5).double().train(training)
    results = []
    for _ in range(2):
        outs = model(IMAGES.double())
        results.append([*outs, *torch.autograd.grad(sum(out.square().sum() for out in outs), list(model.parameters()))])
        for module in model.modules():  # from the second round on
            module.register_forward_hook(lambda *args: None)
    for ours, plain in zip(*results):
        torch.testing.assert_close(ours, plain)


def test_a_replaced_layer_is_called(micro):
    model = build(**micro, layer_scale_init_value=.5)
    model.stages[0][0].act = torch.nn.ReLU()
    other = build(**micro, layer_scale_init_value=.5)
    assert not torch.allclose(model(IMAGES)[0], other(IMAGES)[0])


@needs_torch('2.0')
@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(torch.float16, marks=needs_torch('2.4'))])
def test_trains_under_autocast(micro, dtype):
    model = build(**micro, layer_scale_init_value=.5).train()
    gradients = []
    for enabled in (False, True):
        with torch.autocast('cpu', dtype, enabled=enabled):
            loss = sum(out.float().square().mean() for out in model(IMAGES))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(half.dtype == torch.float32 for half in gradients[1])
    flat, half = (torch.cat([g.flatten() for g in gs]) for gs in gradients)
    assert torch.cosine_similarity(flat, half, dim=0) > .99


@pytest.mark.slow
@needs_torch('2.4')
def test_compiles_whole(micro):
    check_compiled(build(**micro, layer_scale_init_value=.5))


def test_drop_path_grows_linearly(micro):
    blocks = [block for stage in SLaK(**micro, drop_path_rate=0.4).stages for block in stage]
    assert [getattr(block.drop_path, 'drop_prob', 0.) for block in blocks] == pytest.approx([0, .1, .2, .3, .4])


def test_layer_scale():
    arch = dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    assert SLaK(arch, layer_scale_init_value=0.).stages[0][0].gamma is None
    assert (SLaK(arch, layer_scale_init_value=.25).stages[0][0].gamma == .25).all()
    assert SLaK(arch, layer_scale_init_value=1).stages[0][0].gamma.dtype == torch.float32


def test_initialisation(micro):
    model = build(**micro)
    weight = model.stages[3][0].pwconv1.weight
    assert weight.std().item() == pytest.approx(.02, rel=.1)
    assert model.stages[0][0].large_kernel.tall.conv.weight.std().item() == pytest.approx(.02, rel=.1)
    assert (model.stages[0][0].pwconv1.bias == 0).all()


@pytest.mark.parametrize('kwargs, message', [
    (dict(arch='huge'), "'tiny', 'small', 'base', 'large'"),
    (dict(arch=dict(depths=(1, 1, 1, 1))), 'dict\\(depths'),
    (dict(arch=dict(depths=(1, 1), channels=(8, 8))), '4 stages'),
    (dict(kernel_sizes=(51, 49, 47)), 'each of the 4 stages'),
    (dict(kernel_sizes=51), 'each of the 4 stages'),
    (dict(kernel_sizes=(51, 49, 47, 12)), 'odd'),
    (dict(small_kernel_size=15), 'small_kernel_size <= 13'),
    (dict(large_kernel='lora'), "'decomposed', 'reparam', 'naive', 'sequential', 'dilated', 'stacked'"),
    (dict(large_kernel=('naive', 'naive', 'lora', 'naive')), "large_kernel='lora' is unknown; choose from .'decomposed'"),
    (dict(large_kernel=('naive', 'reparam')), "'stacked'.*one for each of the 4 stages"),
    (dict(large_kernel='dilated', kernel_sizes=(19, 17, 17, 1)), 'small_kernel_size <= 1'),
    (dict(out_indices=(0, 4)), 'from -4 to 3'),
    (dict(frozen_stages=5), 'from 0 .none. to 4'),
    (dict(width_factor=0), 'width_factor must be positive'),
])
def test_wrong_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SLaK(**kwargs)


@pytest.mark.parametrize('out_indices, least', [((0, 1, 2, 3), 32), ((0, 1), 8)])
def test_images_that_are_too_small(micro, out_indices, least):
    model = SLaK(**NORM, **dict(micro, out_indices=out_indices, gap_before_final_norm=False)).eval()
    assert model.min_size == least and model(torch.zeros(1, 3, least, 2 * least))[-1].shape[2:] == (1, 2)
    with pytest.raises(ValueError, match=f'{least - 1}x90.*at least {least} pixels'):
        model(torch.zeros(1, 3, least - 1, 90))


def test_arguments_are_not_changed(micro):
    kwargs = dict(micro, out_indices=[0, -1], norm_cfg=dict(type='BN'))
    before = copy.deepcopy(kwargs)
    SLaK(**kwargs)
    assert kwargs == before


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
@pytest.mark.parametrize('name', ['SLaK', 'slak_mm.SLaK'])
def test_both_names_resolve_in_each_library(scope, name, micro):
    registry = pytest.importorskip(f'{scope}.registry').MODELS
    with DefaultScope.overwrite_default_scope(scope):
        assert type(registry.build(dict(type=name, **micro))) is SLaK
    assert ROOT_MODELS.get(name) is SLaK


@needs_torch('2.0')
def test_layer_depth_follows_the_oracle():
    with torch.device('meta'):
        tiny, small = SLaK('tiny'), SLaK('small')
    assert tiny.get_layer_depth('backbone.downsample_layers.1.0.weight', 'backbone.') == (2, 8)
    assert tiny.get_layer_depth('backbone.stages.2.8.gamma', 'backbone.') == (5, 8)
    assert small.get_layer_depth('stages.2.26.gamma') == (11, 14)
    assert small.get_layer_depth('downsample_layers.3.0.weight') == (12, 14)
    assert small.get_layer_depth('head.fc.weight', 'backbone.') == (13, 14)
    assert tiny.get_layer_depth('norm3.weight') == (7, 8)


def test_a_deep_copy_is_independent(micro):
    model = build(**micro)
    clone = copy.deepcopy(model)
    clone.switch_to_deploy()
    assert all(hasattr(m, 'small') for m in model.modules() if isinstance(m, LargeKernel))
