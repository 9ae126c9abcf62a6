from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from triton_helpers import reloaded

from slak_mm.models import ops
from slak_mm.models.large_kernel import LargeKernel
from slak_mm.models.ops import mlp_rows, triton_maps
from slak_mm.models.slak import LayerNorm2d, SLaKBlock

pytest.importorskip('triton')
pytestmark = pytest.mark.skipif(not hasattr(torch.library, 'custom_op'), reason='torch < 2.4')


@pytest.fixture(scope='module', autouse=True)
def interpreter():
    with reloaded('1'):
        yield


def maps(n, h, w, c, nchw, dtype=torch.float32):
    """(N, H, W, C), in the memory layout of NCHW or of NHWC."""
    return torch.randn(n, c, h, w, dtype=dtype).permute(0, 2, 3, 1) if nchw else torch.randn(n, h, w, c, dtype=dtype)


def error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), st.integers(0, 9), st.booleans())
def test_norm_of_any_map(n, h, w, channels, padding, nchw):
    x, weight, bias = maps(n, h, w, channels, nchw), torch.rand(channels) + .5, torch.randn(channels)
    width = min(channels + padding, 1 << max(channels - 1, 15).bit_length())
    rows, mean, rstd = triton_maps.to_rows(x, width, torch.float32, (weight, bias, 1e-6))
    doubles = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    expected = F.layer_norm(doubles[0], (channels, ), *doubles[1:], 1e-6)
    torch.testing.assert_close(rows[:, :channels].double(), expected.reshape(-1, channels), atol=2e-4, rtol=1e-4)
    assert not rows[:, channels:].any()

    grad = torch.randn(n * h * w, width)
    found = triton_maps.norm_backward(grad, x, mean, rstd, weight)
    wanted = torch.autograd.grad(expected, doubles, grad[:, :channels].reshape(x.shape).double())
    for actual, reference in zip(found, wanted):
        torch.testing.assert_close(actual.double(), reference, atol=2e-3 * max(1., rstd.max().item()), rtol=1e-3)
    assert found[0].stride() == x.stride() or x.is_contiguous() or 1 in x.shape

    assert torch.equal(triton_maps.to_rows(x, width, torch.float32)[0][:, :channels].reshape(x.shape), x)
    assert torch.equal(triton_maps.add(x, grad[:, :channels].view(x.shape)), x + grad[:, :channels].view(x.shape))


@pytest.mark.parametrize('shape', [(3, ), (5, 16), (16, 16)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_padded(shape, dtype):
    tensor, scale = torch.randn(shape), torch.randn(shape[0])
    for factor in (None, scale):
        expected = tensor if factor is None else tensor * factor.view(-1, *[1] * (len(shape) - 1))
        result = mlp_rows.padded(tensor, dtype, factor)
        assert result.dtype == dtype and all(size * dtype.itemsize % 16 == 0 for size in result.shape)
        inside = tuple(slice(size) for size in shape)
        assert torch.equal(result[inside], expected.to(dtype))
        assert result.count_nonzero() == expected.to(dtype).count_nonzero()


@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('scaled', [True, False])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)], ids=str)
def test_norm_mlp(dtype, tolerance, scaled, keep):
    channels, hidden = 20, 77
    x = maps(2, 5, 6, channels, nchw=True).requires_grad_()
    parameters = [torch.rand(channels) + .5, torch.randn(channels), torch.randn(hidden, channels) * .2, torch.randn(hidden),
                  torch.randn(channels, hidden) * .2, torch.randn(channels)]
    scale = [torch.randn(channels)] if scaled else []
    inputs = [x, *(parameter.requires_grad_() for parameter in parameters + scale)]
    norm, linear, last = parameters[:2], parameters[2:], scale[0] if scaled else None

    out = mlp_rows.NormMLPRowsFunction.apply(x, *norm, 1e-6, *linear, last, dtype, keep)
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    x64, norm_weight, norm_bias, weight1, bias1, weight2, bias2, *scale64 = doubles
    normed = F.layer_norm(x64, (channels, ), norm_weight, norm_bias, 1e-6)
    expected = F.linear(F.gelu(F.linear(normed, weight1, bias1)), weight2, bias2) * (scale64[0] if scaled else 1)
    assert out.dtype == dtype and error(out, expected) < tolerance

    grad = torch.randn_like(out)
    found, wanted = torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, doubles, grad.double())
    for actual, reference, tensor in zip(found, wanted, inputs):
        assert actual.dtype == tensor.dtype and error(actual, reference) < tolerance
    with torch.no_grad():
        assert torch.equal(mlp_rows.norm_mlp_rows(x, *norm, 1e-6, *linear, last, dtype), out)


@pytest.mark.slow
@pytest.mark.parametrize('autocast', [False, True])
def test_a_block_is_the_same_by_both_backends(autocast):
    block = SLaKBlock(12, LargeKernel(12, 7, 3, 'decomposed', dict(type='BN')), drop_path_rate=.5, layer_scale_init_value=.5)
    untrained = nn.Sequential(LayerNorm2d(12), block)
    x = torch.randn(3, 12, 5, 4)
    found = {}
    for backend in ('native', 'triton'):
        torch.manual_seed(0)  # of drop path
        module = deepcopy(untrained)
        inputs = [x.requires_grad_(), *module.parameters()]
        with ops.use_backend(backend), torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            out = module.train()(x)
            with torch.no_grad():
                evaluated = module.eval()(x)
        grads = torch.autograd.grad(out.square().sum(), inputs)
        found[backend] = [out, evaluated, *grads]
    for native, triton in zip(*found.values()):
        assert native.dtype == triton.dtype and native.shape == triton.shape
        assert error(triton, native) < (5e-2 if autocast else 1e-5)


@pytest.mark.parametrize('scaled', [True, False])
def test_second_derivatives(scaled):
    x = torch.randn(2, 3, 2, 6, requires_grad=True)
    parameters = [torch.rand(6), torch.randn(6), torch.randn(9, 6), torch.randn(9), torch.randn(6, 9), torch.randn(6)]
    scale = torch.randn(6, requires_grad=True) if scaled else None
    inputs = [x, *(parameter.requires_grad_() for parameter in parameters), *([scale] if scaled else [])]

    def plain(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale=1):
        normed = F.layer_norm(F.layer_norm(x, (6, ), norm_weight, norm_bias), (6, ), norm_weight, norm_bias)
        return F.linear(F.gelu(F.linear(normed, weight1, bias1)), weight2, bias2) * scale

    def rows(x, norm_weight, norm_bias, *linear, scale=None):
        x = mlp_rows.LayerNormRowsFunction.apply(x, norm_weight, norm_bias, 1e-5, torch.float32)
        return mlp_rows.NormMLPRowsFunction.apply(x, norm_weight, norm_bias, 1e-5, *linear[:4], scale, torch.float32, True)

    found = []
    for out in (plain(*inputs), rows(*inputs[:7], scale=scale)):
        grads = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(grad.square().sum() for grad in grads), inputs))
    for actual, expected in zip(*found):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
