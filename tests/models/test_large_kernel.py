import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slak_mm.models.large_kernel import FORMS, LargeKernel, branch_shapes, dilated_conv2d

odd = st.integers(0, 9).map(lambda i: 2 * i + 1)
from_3 = st.integers(1, 9).map(lambda i: 2 * i + 1)


def randomise(module):
    for tensor in [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]:
        tensor.data.uniform_(0.5, 1.5)


def test_branches_of_each_form():
    assert branch_shapes('decomposed', 51, 5) == dict(tall=(51, 5), wide=(5, 51), small=(5, 5))
    assert branch_shapes('reparam', 31, 5) == dict(full=(31, 31), small=(5, 5))
    assert branch_shapes('naive', 7, 100) == dict(full=(7, 7))
    assert branch_shapes('decomposed', 5, 5) == dict(tall=(5, 5), wide=(5, 5))
    assert branch_shapes('sequential', 51, 5) == {'sequence.0': (51, 5), 'sequence.1': (5, 51), 'small': (5, 5)}
    assert branch_shapes('dilated', 5, 5) == dict(dilated=(5, 5), small=(5, 5))  # spread over 13 pixels
    assert branch_shapes('stacked', 21, 5) == {**{f'sequence.{i}': (3, 3) for i in range(10)}, 'small': (5, 5)}


@pytest.mark.parametrize('args, message', [
    (('cross', 51, 5), 'decomposed'),
    (('decomposed', 50, 5), 'odd'),
    (('decomposed', 51, 4), 'odd'),
    (('reparam', 51., 5), 'odd'),
    (('naive', -3, 5), 'odd'),
    (('decomposed', 5, 7), 'small_kernel_size <= 5'),
    (('sequential', 5, 7), 'small_kernel_size <= 5'),
    (('dilated', 5, 15), 'small_kernel_size <= 13'),
    (('stacked', 1, 1), 'at least 3'),
    (('stacked', 20, 5), 'odd'),
])
def test_impossible_kernels_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        branch_shapes(*args)


@settings(max_examples=40, deadline=None)
@given(form=st.sampled_from(FORMS), kernel=from_3, small=odd, size=st.integers(1, 12))
def test_merging_keeps_the_outputs(form, kernel, small, size):
    kernel, small = max(kernel, small), min(kernel, small)
    layer = LargeKernel(4, kernel, small, form, dict(type='BN')).double().eval()
    randomise(layer)
    x = torch.randn(2, 4, size, size + 1, dtype=torch.float64)
    expected = layer(x)
    layer.switch_to_deploy()
    layer.switch_to_deploy()
    torch.testing.assert_close(layer(x), expected)
    built_so = LargeKernel(4, kernel, small, form, dict(type='BN'), deploy=True)
    assert {k: v.shape for k, v in built_so.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


@settings(max_examples=60, deadline=None)
@given(form=st.sampled_from(['sequential', 'dilated', 'stacked']), kernel=from_3, small=odd, height=st.integers(1, 30),
       width=st.integers(1, 30), training=st.booleans())
def test_equals_its_modules_called_one_by_one(form, kernel, small, height, width, training):
    layer = LargeKernel(3, kernel, min(kernel, small), form, dict(type='BN')).double().train(training)
    randomise(layer)
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layer.parameters()]
    results = []
    for _ in range(2):
        out = layer(x)
        results.append([out, *torch.autograd.grad(out.square().mean(), wanted)])
        layer.register_forward_hook(lambda *args: None)
        for module in layer.modules():  # from the second round on torch's own modules run, unsliced
            module.register_forward_hook(lambda *args: None)
    for ours, plain in zip(*results):
        # before a batch norm that trains, a weight that only scales has the gradient zero, of which rounding leaves 1e-11
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=max(1e-6 * plain.abs().max().item(), 1e-12))


def support(layer, size):
    """Which pixels of a (size, size) map the central output depends on."""
    for parameter in layer.parameters():
        parameter.data.fill_(1.)
    x = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    layer.double().eval()(x)[0, 0, size // 2, size // 2].backward()
    return x.grad[0, 0] != 0


@settings(max_examples=40, deadline=None)
@given(form=st.sampled_from(FORMS), kernel=from_3, small=odd)
def test_receptive_field(form, kernel, small):
    small = min(kernel, small)
    reach = dict(sequential=kernel + small - 1, dilated=3 * kernel - 2).get(form, kernel)
    seen = support(LargeKernel(1, kernel, small, form, dict(type='BN')), reach + 4)
    index = torch.arange(-(reach + 4) // 2 + 1, (reach + 4) // 2 + 1)
    row, column = index[:, None], index[None]
    box = (row.abs() <= reach // 2) & (column.abs() <= reach // 2)
    centre = (row.abs() <= small // 2) & (column.abs() <= small // 2)
    expected = {
        'decomposed': (row.abs() <= small // 2) & box | (column.abs() <= small // 2) & box,
        'dilated': (row % 3 == 0) & (column % 3 == 0) & box | centre,
    }.get(form, box)
    assert torch.equal(seen, expected)


@pytest.mark.parametrize('form, kernel, reach', [('sequential', 51, 55), ('dilated', 19, 55), ('dilated', 17, 49), ('dilated', 5, 13),
                                                 ('stacked', 21, 21)])
def test_receptive_fields_of_table_13(form, kernel, reach):
    seen = support(LargeKernel(1, kernel, 5, form, dict(type='BN')), 61)
    for dim in (0, 1):
        pixels = seen.any(dim).nonzero().flatten()
        assert pixels[-1] - pixels[0] + 1 == reach and pixels[0] + pixels[-1] == 60


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_a_dilated_convolution_is_torchs(memory_format):
    x, weight = torch.randn(2, 4, 20, 13, dtype=torch.float64), torch.randn(4, 1, 7, 3, dtype=torch.float64)
    for dilation in (1, 2, 3, 25):
        expected = torch.nn.functional.conv2d(x, weight, torch.ones(4).double(), 1, (3 * dilation, dilation), dilation, 4)
        out = dilated_conv2d(x.contiguous(memory_format=memory_format), weight, torch.ones(4).double(), dilation)
        torch.testing.assert_close(out, expected)


def test_each_branch_is_normalised_before_the_sum():
    layer = LargeKernel(4, 7, 3, 'decomposed', dict(type='BN')).train()
    with torch.no_grad():
        out = layer(torch.randn(8, 4, 16, 16))
    # three branches of unit variance, nearly uncorrelated between tall, wide and small at random weights
    assert 1.5 < out.var() < 6
    assert out.mean().abs() < 1e-5


@pytest.mark.parametrize('form', FORMS)
def test_frozen_batch_norms_train_the_kernels_as_the_branches_one_by_one_do(form):
    layer = LargeKernel(4, 7, 3, form, dict(type='BN')).double().eval()
    randomise(layer)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    merged = layer(x)
    branches = sum(branch(x) for branch in layer.children())
    torch.testing.assert_close(merged, branches)
    parameters = list(layer.parameters())
    torch.testing.assert_close(torch.autograd.grad(merged.square().sum(), parameters),
                               torch.autograd.grad(branches.square().sum(), parameters))


@pytest.mark.parametrize('mode', [True, False])
def test_a_hooked_module_is_called(mode):
    layer = LargeKernel(4, 7, 3, 'decomposed', dict(type='BN')).train(mode)
    x, called = torch.randn(2, 4, 9, 8), []
    expected = layer(x)
    for module in (layer.tall, layer.wide.conv, layer.small.bn):
        module.register_forward_hook(lambda module, args, out: called.append(module))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert called == [layer.tall, layer.wide.conv, layer.small.bn]


def test_only_batch_norms_can_be_folded():
    layer = LargeKernel(4, 7, 3, 'decomposed', dict(type='GN', num_groups=2)).eval()
    assert layer(torch.randn(2, 4, 9, 8)).shape == (2, 4, 9, 8)
    with pytest.raises(TypeError, match='GroupNorm cannot be folded'):
        layer.switch_to_deploy()
