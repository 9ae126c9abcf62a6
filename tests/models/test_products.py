"""Matrix products on a CPU: right by each backend, and chosen by a rule that gives the same numbers tomorrow."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slak_mm.models.ops import norm_mlp, products, use_backend
from slak_mm.models.ops.products import linear, outer, prefers_onednn

BACKENDS = ['native', *(['onednn'] if products._pointwise() is not None else [])]


def transposed(tensor):
    """The same values, with the other stride in memory."""
    return tensor.t().contiguous().t()


@pytest.mark.parametrize('backend', BACKENDS)
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), inner=st.integers(1, 40), columns=st.integers(1, 40), flips=st.tuples(st.booleans(), st.booleans()),
       has_bias=st.booleans(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_linear(backend, rows, inner, columns, flips, has_bias, dtype):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, inner), torch.randn(columns, inner), torch.randn(columns) if has_bias else None
    x, weight = (transposed(t).to(dtype) if flip else t.to(dtype) for t, flip in zip((x, weight), flips))
    bias = None if bias is None else bias.to(dtype)
    with use_backend(backend):
        actual = linear(x, weight, bias)
    expected = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5,
                               atol=.1 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('m, n', [(3, 8), (8, 3), (5, 5)])
def test_outer(backend, dtype, m, n):
    a, b = torch.randn(64, m, dtype=dtype), torch.randn(64, n, dtype=dtype)
    total = None
    with use_backend(backend):
        for part_a, part_b in zip(a.split(30), b.split(30)):  # the last one has 4 rows: fewer than columns
            total = outer(part_a, part_b, total)
    torch.testing.assert_close(total.double(), a.double().t() @ b.double(), rtol=1e-5, atol=1e-5)


def test_a_sum_of_many_parts_in_bf16_loses_none():
    a, b = torch.ones(4000, 2, dtype=torch.bfloat16), torch.ones(4000, 3, dtype=torch.bfloat16)
    total = None
    for part_a, part_b in zip(a.split(4), b.split(4)):
        total = outer(part_a, part_b, total)
    assert total.dtype == torch.float32 and total.eq(4000).all()  # bf16 would stop at 1024


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('channels', [12, 400])  # the hidden layer is computed again, or kept
def test_gradients_of_an_mlp_in_chunks(backend, channels, monkeypatch):
    monkeypatch.setattr('slak_mm.models.ops.mlp.CHUNK_BYTES', 20 * 4 * 2 * channels)
    torch.manual_seed(0)
    shapes = (3, 5, 5, channels), (channels, ), (channels, ), (2 * channels, channels), (2 * channels, ), (channels, 2 * channels), (
        channels, ), (channels, )

    def run(tensors, call):
        x, norm_weight, norm_bias, *others = tensors
        out = call(x, (norm_weight, norm_bias, 1e-6), others[:2], others[2:4], others[4])
        return [out, *torch.autograd.grad((out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum(), tensors)]

    def plain(x, norm, linear1, linear2, scale):
        x = torch.nn.functional.layer_norm(x, (channels, ), *norm)
        return torch.nn.functional.linear(torch.nn.functional.gelu(torch.nn.functional.linear(x, *linear1)), *linear2) * scale

    tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    expected = run([t.detach().double().requires_grad_() for t in tensors], plain)
    with use_backend(backend):
        actual = run(tensors, norm_mlp)
    for a, e in zip(actual, expected):
        assert a.is_contiguous()
        torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=1e-4 * e.abs().max().item())


@pytest.fixture
def forgotten():
    """What is known of the CPU and of torch, looked up anew."""
    for function in (products._is_faster, products._pointwise):
        function.cache_clear()
    yield
    for function in (products._is_faster, products._pointwise):
        function.cache_clear()


@pytest.mark.parametrize('processor, capability, machine, expected', [
    ('vendor_id : AuthenticAMD', 'AVX512', 'x86_64', True),
    ('AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD', 'AVX512', 'AMD64', True),
    ('vendor_id : GenuineIntel', 'AVX512', 'x86_64', False),
    ('vendor_id : AuthenticAMD', 'AVX2', 'x86_64', False),
    ('', 'AVX512', 'aarch64', False),
])
@pytest.mark.skipif('onednn' not in BACKENDS, reason='this torch has no oneDNN')
def test_the_rule(forgotten, monkeypatch, processor, capability, machine, expected):
    monkeypatch.setattr(products, '_processor', lambda: processor)
    monkeypatch.setattr('platform.machine', lambda: machine)
    monkeypatch.setattr('torch.backends.cpu.get_cpu_capability', lambda: capability)
    monkeypatch.setattr('torch.backends.mkl.is_available', lambda: True)
    x = torch.ones(2, 3)
    with use_backend('auto'):
        assert prefers_onednn(x) is expected
        assert not prefers_onednn(x.double()) and not prefers_onednn(x.bfloat16())
    with use_backend('native'):
        assert not prefers_onednn(x)
    with use_backend('onednn'):
        assert prefers_onednn(x)


def test_a_torch_without_it(forgotten, monkeypatch):
    monkeypatch.setattr(products, '_is_faster', lambda: True)
    monkeypatch.setattr('torch.backends.mkldnn.is_available', lambda: False)
    x = torch.ones(2, 3)
    with use_backend('auto'):
        assert torch.equal(linear(x, x), torch.full((2, 2), 3.))
    with use_backend('onednn'), pytest.raises(RuntimeError, match="Choose 'auto' or 'native'"):
        linear(x, x)


@pytest.mark.skipif('onednn' not in BACKENDS, reason='this torch has no oneDNN')
def test_another_signature_ends_in_one_warning(forgotten, monkeypatch):

    def other(*args):
        raise TypeError('takes 7 arguments')

    monkeypatch.setattr(products, '_is_faster', lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, '_linear_pointwise', other)
    x = torch.ones(2, 3)
    with use_backend('auto'), pytest.warns(UserWarning, match='takes 7 arguments.*SLAK_MM_BACKEND=native') as record:
        for _ in range(2):
            assert torch.equal(linear(x, x), torch.full((2, 2), 3.))
    assert len(record) == 1
