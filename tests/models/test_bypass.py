"""Whoever edits, traces or transforms the modules of a backbone is obeyed, though its fast path calls none of them."""
import copy
import io
import warnings

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from versions import needs_torch

from slak_mm.models import SLaK
from slak_mm.models.large_kernel import FORMS, DepthwiseConvBN, LargeKernel

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build(form='decomposed', **kwargs):
    torch.manual_seed(0)
    options = dict(arch=dict(depths=(1, 1, 1, 1), channels=(4, 6, 8, 10)), kernel_sizes=(13, 11, 9, 7), large_kernel=form,
                   layer_scale_init_value=.5, out_indices=(0, 1, 2, 3), gap_before_final_norm=False, norm_cfg=dict(type='BN'))
    model = SLaK(**{**options, **kwargs}).train()
    with torch.no_grad():
        model(IMAGES + 1)
        for name, parameter in model.named_parameters():
            if name.endswith('bn.bias'):
                parameter.normal_(0, .3)
    return model.eval()


def assert_close(actual, expected, **tolerances):
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a, b, **{**dict(rtol=1e-4, atol=1e-5), **tolerances})


def called(model):
    """The model, all of whose modules are called from now on."""
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
    return model


def branches(model):
    return [module for module in model.modules() if isinstance(module, DepthwiseConvBN)]


def edit_convs(edit):
    def apply(model):
        for branch in branches(model):
            new = edit(branch.conv)
            branch.conv = branch.conv if new is None else new
    return apply


def subclass(conv):
    class Lora(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + .1 * x
    conv.__class__ = Lora


def patch_forward(conv):
    conv.forward = lambda x: nn.Conv2d.forward(conv, x).tanh()


def add_bias(conv):
    conv.bias = nn.Parameter(torch.randn(len(conv.weight)))


def replace_norms(norm):
    def apply(model):
        for branch in branches(model):
            branch.bn = norm(len(branch.conv.weight))
    return apply


def edit_linears(edit):
    def apply(model):
        for stage in model.stages:
            edit(stage[0])
    return apply


def quantize(model):
    model.qconfig = torch.ao.quantization.get_default_qconfig('fbgemm')
    torch.ao.quantization.prepare(model, inplace=True)


def quantize_linears(model):
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)


EDITS = dict(
    bias=edit_convs(add_bias),
    subclass=edit_convs(subclass),
    wrapped=edit_convs(lambda conv: nn.Sequential(conv, nn.Tanh())),
    own_forward=edit_convs(patch_forward),
    padding_mode=edit_convs(lambda conv: setattr(conv, 'padding_mode', 'replicate')),
    dilation=edit_convs(lambda conv: conv.__dict__.update(dilation=(2, 2), padding=tuple(k // 2 * 2 for k in conv.kernel_size))),
    parametrized=edit_convs(lambda conv: parametrizations.weight_norm(conv)) if hasattr(parametrizations, 'weight_norm') else None,
    weight_norm=edit_convs(lambda conv: weight_norm(conv)),
    spectral_norm=edit_convs(lambda conv: spectral_norm(conv, n_power_iterations=100)),
    pruned=edit_convs(lambda conv: prune.random_unstructured(conv, 'weight', .5)),
    group_norm=replace_norms(lambda channels: nn.GroupNorm(1, channels)),
    no_norm=replace_norms(lambda channels: nn.Identity()),
    norm_removed=replace_norms(lambda channels: None),
    norm_without_statistics=replace_norms(lambda channels: nn.BatchNorm2d(channels, track_running_stats=False)),
    norm_without_weights=replace_norms(lambda channels: nn.BatchNorm2d(channels, affine=False)),
    tanh_gelu=edit_linears(lambda block: setattr(block, 'act', nn.GELU(approximate='tanh'))),
    no_bias=edit_linears(lambda block: setattr(block.pwconv1, 'bias', None)),
    no_affine=edit_linears(lambda block: setattr(block, 'norm', nn.LayerNorm(block.norm.normalized_shape, elementwise_affine=False))),
    lora_linear=edit_linears(lambda block: setattr(block, 'pwconv2', nn.Sequential(block.pwconv2, nn.Tanh()))),
    branch_replaced=edit_linears(lambda block: setattr(block.large_kernel, [*dict(block.large_kernel.named_children())][-1],
                                                       nn.AvgPool2d(3, 1, 1))),
    branch_nested=edit_linears(lambda block: setattr(block.large_kernel, [*dict(block.large_kernel.named_children())][-1],
                                                     nn.Sequential(block.large_kernel.branches[-1], nn.Tanh()))),
    branch_in_a_sequence=edit_linears(lambda block: setattr(block.large_kernel, [*dict(block.large_kernel.named_children())][-1],
                                                            nn.Sequential(block.large_kernel.branches[-1]))),
    small_removed=edit_linears(lambda block: setattr(block.large_kernel, 'small', None)),
    observers=quantize,
    dynamic_quantization=quantize_linears,
)
EDITS = {name: edit for name, edit in EDITS.items() if edit}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('edit', EDITS)
@pytest.mark.parametrize('form', ['decomposed', 'dilated'])
def test_an_edited_layer_computes_what_its_children_do(form, edit, training):
    model, images = build(form).train(training), IMAGES[:, :, :32, :48]
    before = model(images)
    EDITS[edit](model)
    model.train(training)
    after = model(images)
    assert_close(after, called(model)(images), rtol=1e-4, atol=1e-4)
    same = ('observers', 'parametrized', 'weight_norm', 'tanh_gelu', 'no_affine', 'dynamic_quantization', 'norm_without_statistics',
            'branch_in_a_sequence')
    if edit not in same and not (training and edit in ('bias', 'norm_without_weights', 'spectral_norm')):
        assert (after[0] - before[0]).abs().max() > 1e-3


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('edit', [*EDITS, None])
@pytest.mark.parametrize('form', ['decomposed', 'sequential'])
def test_merging_keeps_the_outputs_of_an_edited_layer_or_changes_nothing(form, edit):
    model, images = build(form), IMAGES[:, :, :32, :48]
    if edit:
        EDITS[edit](model)
        model.eval()
    expected = model(images)
    try:
        model.switch_to_deploy()
    except TypeError as error:
        assert 'use the model as it is' in str(error)
        assert all(branch.bn is not None or edit == 'norm_removed' for branch in branches(model))
    else:
        assert edit not in ('wrapped', 'subclass', 'pruned', 'group_norm', 'padding_mode', 'branch_replaced')
    assert_close(model(images), expected, atol=1e-4)


@pytest.mark.parametrize('form', FORMS)
def test_fusing_by_the_libraries_keeps_the_outputs(form):
    model = build(form)
    with torch.no_grad():
        expected = model(IMAGES)
        fused = fuse_conv_bn(copy.deepcopy(model))
        assert_close(fused(IMAGES), expected)
        fused.switch_to_deploy()
        assert_close(fused(IMAGES), expected)
        pairs = [[f'{name}.conv', f'{name}.bn'] for name, module in model.named_modules() if isinstance(module, DepthwiseConvBN)]
        assert_close(torch.ao.quantization.fuse_modules(model, pairs)(IMAGES), expected)


def test_statistics_in_a_wider_type_are_folded():
    model = build().bfloat16()
    for branch in branches(model):
        branch.bn.float()
    layer, x = model.stages[0][0].large_kernel, torch.randn(1, 5, 9, 9, dtype=torch.bfloat16)
    with torch.no_grad():
        assert_close([layer(x)], [called(layer)(x)], rtol=.05, atol=.05)


def test_a_module_that_is_hung_into_a_layer_is_not_summed():
    model = build()
    expected = model(IMAGES)
    for stage in model.stages:
        stage[0].large_kernel.activation_post_process = nn.Identity()
    assert_close(model(IMAGES), expected, rtol=0, atol=0)


def test_hooks_for_all_modules_see_all():
    model, seen = build(), set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(module))
    try:
        model(IMAGES)
    finally:
        handle.remove()
    assert set(model.modules()) - seen == {model.stages, model.downsample_layers}


@pytest.mark.parametrize('grad', [True, False])
def test_a_trace_can_be_saved_and_serves_other_sizes(grad):
    model = build(with_cp=True)
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter('error', torch.jit.TracerWarning)  # nothing depends on the size
        traced = torch.jit.trace(model, IMAGES[:1, :, :32, :32])
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for images in (IMAGES, IMAGES[:1, :, :32, :32]):
        assert_close(loaded(images), model(images))


@pytest.mark.parametrize('options', [{}, dict(with_cp=True, drop_path_rate=.3)])
def test_torch_fx_traces_it_whole(options):
    from torchvision.models.feature_extraction import create_feature_extractor
    model = build(**options)
    assert_close(torch.fx.symbolic_trace(model)(IMAGES), model(IMAGES))
    extractor = create_feature_extractor(model, return_nodes={'stages.1.0.pwconv1': 'hidden', 'stages.1': 'map'})
    assert extractor(IMAGES)['hidden'].shape == (2, 8, 12, 28)
    leaf = create_feature_extractor(model, return_nodes={'stages.1': 'map'}, tracer_kwargs=dict(leaf_modules=[LargeKernel]))
    assert_close([leaf(IMAGES)['map']], [extractor(IMAGES)['map']])


@needs_torch('2.1')
def test_torch_func_transforms_it():
    model, images = build().double(), IMAGES[:, :, :32, :32].double()
    parameters = dict(model.named_parameters())

    def loss(parameters, images):
        return sum(out.square().mean() for out in torch.func.functional_call(model, parameters, (images, )))

    expected = dict(zip(parameters, torch.autograd.grad(loss(parameters, images), list(parameters.values()))))
    torch.testing.assert_close(torch.func.grad(loss)(parameters, images), expected)
    torch.testing.assert_close(torch.func.jacrev(loss)(parameters, images), expected)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images[:, None])
    torch.testing.assert_close({name: gradient.mean(0) for name, gradient in each.items()}, expected)
    direction = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    along = torch.func.jvp(lambda p: loss(p, images), (parameters, ), (direction, ))[1]
    torch.testing.assert_close(along, sum((direction[name] * expected[name]).sum() for name in expected))


@pytest.mark.parametrize('training', [False, True])
def test_second_derivatives(training):
    gradients = []
    model = build().double().train(training)
    for candidate in (copy.deepcopy(model), called(model)):
        images = IMAGES[:, :, :32, :32].double().requires_grad_()
        gradient, = torch.autograd.grad(sum(out.square().mean() for out in candidate(images)), images, create_graph=True)
        wanted = [images, *candidate.parameters()]
        gradients.append(torch.autograd.grad(gradient.square().sum(), wanted, allow_unused=True))
    for ours, plain in zip(*gradients):
        assert (ours is None) == (plain is None)
        if ours is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-6, atol=max(1e-8 * plain.abs().max().item(), 1e-12))


@pytest.mark.filterwarnings('ignore')
@needs_torch('2.5')
def test_the_exporter_that_traces_writes_onnx():
    session = pytest.importorskip('onnxruntime').InferenceSession
    model, file = build(), io.BytesIO()
    torch.onnx.export(model, (IMAGES, ), file, dynamo=False, opset_version=17)
    session = session(file.getvalue(), providers=['CPUExecutionProvider'])
    outs = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    assert_close(map(torch.from_numpy, outs), model(IMAGES))
