import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from versions import needs_torch

from slak_mm.models.ops import (
    backend,
    depthwise,
    large_kernel_branches,
    large_kernel_conv2d,
    merge,
    mlp,
    norm_mlp,
    set_backend,
    triton_kernels,
    use_backend,
)

odd = st.integers(0, 9).map(lambda i: 2 * i + 1)
STRIPES = [(21, 5), (5, 21), (5, 5)]


def convolve(x, weight):
    return F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])


def make(kernels, size=(9, 8), channels=3, **kwargs):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, *size), *((channels, 1, *kernel) for kernel in kernels)]
    return [torch.randn(shape, generator=generator).to(**kwargs).requires_grad_() for shape in shapes]


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), kernels=st.lists(st.tuples(odd, odd), min_size=1, max_size=3),
       bias=st.booleans())
def test_the_sum_equals_plain_convolutions_and_so_do_its_gradients(size, kernels, bias):
    x, *weights = make(kernels, size, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True) if bias else None
    plain = sum(convolve(x, weight) for weight in weights) + (0 if bias is None else bias.view(-1, 1, 1))
    ours = large_kernel_conv2d(x, weights, bias)
    torch.testing.assert_close(ours, plain)
    upstream = torch.randn_like(plain)
    inputs = [x, *weights] + ([] if bias is None else [bias])
    for a, b in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(plain, inputs, upstream)):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize('kernel', [(51, 5), (5, 51), (5, 5), (7, 7), (31, 31)])
def test_gradcheck(kernel):
    x, weight = make([kernel], (5, 4), 2, dtype=torch.float64)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w, b: large_kernel_conv2d(x, [w], b), (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda x, w, b: large_kernel_conv2d(x, [w], b), (x, weight, bias))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.bfloat16, 1e-2),
                                              pytest.param(torch.float16, 1e-3, marks=needs_torch('2.4'))])
@pytest.mark.parametrize('kernel', [(51, 5), (5, 51), (5, 5), (31, 31)])
@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
def test_weight_gradient(kernel, dtype, tolerance, memory_format):
    x, weight = (t.detach() for t in make([kernel], (30, 28), 20, dtype=dtype))
    x, grad = (t.contiguous(memory_format=memory_format) for t in (x, torch.randn_like(x)))
    weight64 = weight.double().requires_grad_()
    expected, = torch.autograd.grad(convolve(x.double(), weight64), weight64, grad.double())
    actual = depthwise.weight_gradient(x, grad, kernel)
    assert actual.dtype == dtype and (actual - expected).norm() < tolerance * expected.norm()


def test_branches_are_not_merged():
    x, *weights = make(STRIPES)
    for actual, weight in zip(large_kernel_branches(x, weights), weights):
        torch.testing.assert_close(actual, convolve(x, weight), rtol=1e-4, atol=1e-4)


def test_merge_leaves_what_does_not_fit_and_its_arguments():
    tall, wide, small = weights = [torch.randn(2, 1, *kernel) for kernel in STRIPES]
    copies = [weight.clone() for weight in weights]
    merged = merge(weights)
    assert [tuple(weight.shape[2:]) for weight in merged] == [(21, 5), (5, 21)]
    assert torch.equal(merged[0][:, :, 8:13], tall[:, :, 8:13] + small) and torch.equal(merged[1], wide)
    assert all(map(torch.equal, weights, copies))


@settings(deadline=None)
@given(kernels=st.lists(st.tuples(odd, odd), max_size=5))
def test_merged_kernels_are_those_that_fit_in_no_other(kernels):
    merged = merge([torch.ones(1, 1, *kernel) for kernel in kernels])
    largest = {a for a in kernels if not any(a != b and a[0] <= b[0] and a[1] <= b[1] for b in kernels)}
    assert sorted(tuple(weight.shape[2:]) for weight in merged) == sorted(largest)
    assert sum(weight.sum() for weight in merged) == sum(height * width for height, width in kernels)


def test_unreachable_taps_get_no_gradient_and_cost_nothing():
    x, weight = make([(21, 5)], (4, 8))
    assert depthwise.reachable(weight, (4, 8)).shape == (3, 1, 7, 5)
    grad, = torch.autograd.grad(large_kernel_conv2d(x, [weight]).sum(), weight)
    assert not grad[:, :, :7].any() and not grad[:, :, -7:].any() and grad[:, :, 7:14].all()


def test_under_autocast():
    x, *weights = make(STRIPES)
    with torch.autocast('cpu', torch.bfloat16):
        out = large_kernel_conv2d(x, weights)
        outs = large_kernel_branches(x, weights)
    assert {t.dtype for t in (out, *outs)} == {torch.bfloat16}
    assert {g.dtype for g in torch.autograd.grad(out.sum() + sum(outs).sum(), [x, *weights])} == {torch.float32}
    x, *weights = make(STRIPES, dtype=torch.float64)
    with torch.autocast('cpu', torch.bfloat16):
        assert large_kernel_conv2d(x, weights).dtype == torch.float64


@pytest.mark.slow
@needs_torch('2.4')
def test_compiles_whole():
    x, *weights = make(STRIPES)
    compiled = torch.compile(lambda x, *weights: large_kernel_conv2d(x, weights).square().sum(), fullgraph=True, backend='aot_eager')
    plain = large_kernel_conv2d(x, weights).square().sum()
    actual = compiled(x, *weights)
    torch.testing.assert_close(actual, plain)
    torch.testing.assert_close(torch.autograd.grad(actual, weights), torch.autograd.grad(plain, weights))


def mlp_arguments(channels=4, dtype=torch.float64, scale=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, channels), (channels, ), (channels, ), (8, channels), (8, ), (channels, 8), (channels, )] + [(channels, )] * scale
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def fast_mlp(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale=None):
    return norm_mlp(x, (norm_weight, norm_bias, 1e-6), (weight1, bias1), (weight2, bias2), scale)


def plain_mlp(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale=1.):
    x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, 1e-6)
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2) * scale


@pytest.mark.parametrize('scale', [True, False])
@pytest.mark.parametrize('recomputed', [0, 384])
@pytest.mark.parametrize('chunk, padded', [(1, 3000), (128, 3), (2**22, 3000), (2**22, 3)])
def test_mlp(monkeypatch, scale, recomputed, chunk, padded):
    monkeypatch.setattr(mlp, 'CHUNK_BYTES', chunk)
    monkeypatch.setattr(mlp, 'MIN_PADDED_ROWS', padded)
    monkeypatch.setattr(mlp, 'MAX_RECOMPUTED_CHANNELS', recomputed)
    arguments = mlp_arguments(scale=scale)
    assert torch.autograd.gradcheck(fast_mlp, arguments)
    with torch.no_grad():
        torch.testing.assert_close(fast_mlp(*arguments), plain_mlp(*arguments))


def test_mlp_of_no_rows_has_gradients_of_zero():
    x, *parameters = mlp_arguments()
    out = fast_mlp(x[:0], *parameters)
    assert out.shape == (0, *x.shape[1:])
    for grad in torch.autograd.grad(out.sum(), parameters):
        assert not grad.any()


def test_mlp_keeps_less():
    def kept(function, arguments):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.setdefault(t.data_ptr(), t.numel()), lambda t: t):
            function(*arguments)
        return sum(sizes.values()) - sum(argument.numel() for argument in arguments)

    arguments = mlp_arguments()
    assert kept(fast_mlp, arguments) == 0 < kept(plain_mlp, arguments)


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 3e-2), pytest.param(torch.float16, 1e-2, marks=needs_torch('2.4'))])
def test_mlp_under_autocast(dtype, tolerance):
    arguments = mlp_arguments(dtype=torch.float32)
    results = []
    for function in (fast_mlp, plain_mlp):
        with torch.autocast('cpu', dtype):
            out = function(*arguments)
        assert out.dtype == torch.float32  # the scale is
        results.append([out, *torch.autograd.grad(out.sum(), arguments)])
    for actual, expected in zip(*results):
        assert actual.dtype == torch.float32 and (actual - expected).norm() <= tolerance * expected.norm()


def test_an_unknown_backend_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="choose from .*'native'"):
        set_backend('cuda')
    monkeypatch.setattr(backend, '_backend', 'cuda')  # as from the environment
    with pytest.raises(ValueError, match='SLAK_MM_BACKEND'):
        large_kernel_conv2d(*_call())


@needs_torch('2.4')
def test_triton_on_a_cpu_is_refused():
    with use_backend('triton'), pytest.raises(RuntimeError, match="the device is cpu.*Choose 'auto' or 'native'"):
        large_kernel_conv2d(*_call())
    large_kernel_conv2d(*_call())


def _call():
    x, *weights = make(STRIPES)
    return x, weights


@pytest.fixture
def gpu(monkeypatch):
    """The choice as on a GPU: ``gpu(native, triton)`` sets what each backend returns and how long it takes, or what it raises."""
    monkeypatch.setattr(backend, '_choices', {})
    monkeypatch.setattr(triton_kernels, 'unavailable_reason', lambda device: None)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    x = type('OnGPU', (), dict(is_cuda=True, device='cuda:0', dtype=torch.float32))()
    measured = []

    def choose(native, triton):
        def measure(name, run):
            measured.append(name)
            result = dict(native=native, triton=triton)[name]
            if isinstance(result, Exception):
                raise result
            return torch.full((2, ), result[0]), result[1]

        monkeypatch.setattr(backend, '_measure', measure)
        return backend.choose(x, 'key', lambda: None)

    choose.measured = measured
    return choose


@needs_torch('2.4')
@pytest.mark.parametrize('triton_time, chosen', [(1., 'triton'), (3., 'native')])
def test_auto_measures_once_and_takes_the_faster(gpu, triton_time, chosen):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert [gpu((1., 2.), (1., triton_time)) for _ in range(3)] == [chosen] * 3
    assert gpu.measured == ['native', 'triton']


@needs_torch('2.4')
@pytest.mark.parametrize('triton, message', [((1.1, 1.), 'differ from it by 1.0e-01'), ((float('nan'), 1.), 'differ from it by nan'),
                                             (RuntimeError('no ptxas'), 'no ptxas')])
def test_auto_trusts_no_kernel_that_fails_or_differs(gpu, triton, message):
    with pytest.warns(UserWarning, match=message):
        assert gpu((1., 2.), triton) == 'native'
    assert gpu((1., 2.), triton) == 'native'  # and warns once


@needs_torch('2.4')
def test_auto_does_not_ask_the_clock_where_runs_must_be_alike(gpu):
    torch.use_deterministic_algorithms(True)
    try:
        assert [gpu((1., 2.), (1., 3.)) for _ in range(2)] == ['triton'] * 2
        assert gpu.measured == ['native', 'triton']
    finally:
        torch.use_deterministic_algorithms(False)
    assert gpu((1., 2.), (1., 3.)) == 'native'


def test_auto_says_why_triton_is_left_out(gpu, monkeypatch):
    monkeypatch.setattr(triton_kernels, 'unavailable_reason', lambda device: 'triton is not installed')
    with pytest.warns(UserWarning, match='triton is not installed.*SLAK_MM_BACKEND=native'):
        assert gpu((1., 2.), (1., 1.)) == 'native'
