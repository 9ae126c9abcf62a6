import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slak_mm.models.large_kernel import FORMS, LargeKernel, branch_shapes

odd = st.integers(0, 9).map(lambda i: 2 * i + 1)


def randomise(module):
    for tensor in [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]:
        tensor.data.uniform_(0.5, 1.5)


def test_branches_of_each_form():
    assert branch_shapes('decomposed', 51, 5) == dict(tall=(51, 5), wide=(5, 51), small=(5, 5))
    assert branch_shapes('reparam', 31, 5) == dict(full=(31, 31), small=(5, 5))
    assert branch_shapes('naive', 7, 100) == dict(full=(7, 7))
    assert branch_shapes('decomposed', 5, 5) == dict(tall=(5, 5), wide=(5, 5))


@pytest.mark.parametrize('args, message', [
    (('cross', 51, 5), 'decomposed'),
    (('decomposed', 50, 5), 'odd'),
    (('decomposed', 51, 4), 'odd'),
    (('reparam', 51., 5), 'odd'),
    (('naive', -3, 5), 'odd'),
    (('decomposed', 5, 7), 'small_kernel_size <= 5'),
])
def test_impossible_kernels_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        branch_shapes(*args)


@settings(max_examples=40, deadline=None)
@given(form=st.sampled_from(FORMS), kernel=odd, small=odd, size=st.integers(1, 12))
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
