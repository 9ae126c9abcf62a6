import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_helpers import reload, reloaded

from slak_mm.models.ops import triton_kernels
from slak_mm.models.ops.depthwise import conv2d_same
from slak_mm.models.ops.large_kernel import TritonFunction

triton = pytest.importorskip('triton')
compiler = pytest.importorskip('triton.compiler')
GPUTarget = pytest.importorskip('triton.backends.compiler').GPUTarget
pytestmark = pytest.mark.skipif(not hasattr(torch.library, 'custom_op'), reason='torch < 2.4')

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # of the largest value; sums are float32
STRIPES = [(51, 5), (5, 51), (5, 5)]


@pytest.fixture(scope='module', autouse=True)
def interpreter():
    with reloaded('1'):
        yield


def convolve(x, weight):
    """Reference, in float64."""
    return F.conv2d(x.double(), weight.double(), padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])


def make(shape, kernels, dtype=torch.float32, seed=0):
    """A map, and per kernel weights and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(size, generator=generator).to(dtype)

    return randn(*shape), [randn(shape[1], 1, *kernel) for kernel in kernels], [randn(*shape) for _ in kernels]


def assert_close(actual, expected, dtype):
    assert actual.dtype == dtype and actual.shape == expected.shape
    error = (actual.double() - expected).abs().max()
    assert error <= TOLERANCE[dtype] * expected.abs().max(), f'{error} of {expected.abs().max()}'  # a NaN fails


def check(shape, kernels, dtype=torch.float32, memory_format=torch.contiguous_format):
    """All three functions, in the ways that training and inference call them, against autograd in float64."""
    x, weights, grads = make(shape, kernels, dtype)
    x = x.contiguous(memory_format=memory_format)
    bias = torch.linspace(-1, 1, shape[1]).to(dtype)
    x64 = x.double().requires_grad_()
    weights64 = [weight.double().requires_grad_() for weight in weights]
    ys64 = [convolve(x64, weight) for weight in weights64]
    torch.autograd.backward(ys64, [grad.double() for grad in grads])

    outputs = triton_kernels.branches(x, weights)
    assert len(outputs) == len(weights)
    for y, expected in zip(outputs, ys64):
        assert_close(y, expected.detach(), dtype)
        assert y.is_contiguous(memory_format=memory_format)

    merged = triton_kernels.summed([x] * len(weights), weights, bias)
    assert_close(merged, sum(y.detach() for y in ys64) + bias.double().view(1, -1, 1, 1), dtype)
    assert merged.is_contiguous(memory_format=memory_format)

    assert_close(triton_kernels.summed(grads, [weight.flip(2, 3) for weight in weights]), x64.grad, dtype)

    gradients = triton_kernels.weight_gradients(x, grads, [weight.shape for weight in weights])
    assert len(gradients) == len(weights)
    for gradient, weight in zip(gradients, weights64):
        assert_close(gradient, weight.grad, dtype)


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
def test_stripes_longer_than_the_map(dtype):
    check((3, 2, 7, 9), STRIPES, dtype)


@pytest.mark.slow
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_formats(memory_format):
    check((2, 3, 14, 14), [(47, 5), (5, 47), (5, 5)], torch.bfloat16, memory_format)


@pytest.mark.parametrize('shape, kernels', [
    ((1, 1, 14, 14), [(13, 5), (5, 13)]),
    ((1, 2, 17, 5), [(5, 51), (5, 5), (51, 5)]),
    ((2, 2, 9, 8), [(7, 7)]),
    ((1, 1, 20, 18), [(21, 21), (5, 5)]),
    ((1, 1, 6, 70), [(1, 9), (9, 1), (1, 1)]),
    ((1, 1, 1, 1), [(3, 5)]),
    # several tiles: float32 without tf32 has 32x32
    pytest.param((1, 1, 37, 68), STRIPES, marks=pytest.mark.slow),
    pytest.param((1, 1, 68, 37), STRIPES, marks=pytest.mark.slow),
    ((9, 1, 4, 4), [(5, 3), (3, 5)]),  # more images than one program takes
], ids=str)
def test_shapes(shape, kernels, monkeypatch):
    monkeypatch.setattr(triton_kernels, '_precision', lambda x: 'ieee')
    check(shape, kernels)


@pytest.mark.slow
def test_large_tiles():
    check((1, 1, 130, 70), STRIPES, torch.float16)


sides = st.integers(1, 40)
odd = st.integers(0, 24).map(lambda n: 2 * n + 1)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(1, 5), sides, sides, st.lists(st.tuples(odd, odd).filter(lambda k: min(k) < 8), min_size=1, max_size=3),
       st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_shape(n, h, w, kernels, dtype):
    check((n, 1, h, w), kernels, dtype)


def test_gradients_of_weights_in_another_type():
    x, weights, grads = make((2, 2, 7, 7), STRIPES, torch.bfloat16)
    precise = triton_kernels.weight_gradients(x, grads, [weight.shape for weight in weights], dtype=torch.float32)
    for gradient, grad, weight in zip(precise, grads, weights):
        weight = weight.double().requires_grad_()
        convolve(x, weight).backward(grad.double())
        assert_close(gradient, weight.grad, torch.float32)


def test_weights_of_another_type_than_the_map():
    x, weights, _ = make((2, 2, 7, 7), STRIPES)
    for y, weight in zip(triton_kernels.branches(x.bfloat16(), weights), weights):
        assert_close(y, convolve(x.bfloat16(), weight.bfloat16()), torch.bfloat16)


def test_strided_inputs():
    x, weights, _ = make((2, 4, 8, 20), STRIPES)
    x, weights = x[:, ::2, :, ::2], [weight[::2].flip(2, 3) for weight in weights]
    for y, weight in zip(triton_kernels.branches(x, weights), weights):
        assert_close(y, convolve(x, weight), torch.float32)


@pytest.mark.parametrize('total', [True, False])
def test_second_derivatives(total):
    """By torch's operators, see twice_differentiable."""
    x, weights, _ = make((1, 2, 5, 4), [(5, 3), (3, 5)])
    bias = torch.randn(2)

    def penalty(function):
        tensors = [tensor.clone().requires_grad_() for tensor in (x, bias, *weights)]
        loss = sum(out.square().sum() for out in function(*tensors))
        gradients = torch.autograd.grad(loss, [tensors[0], tensors[2]], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), tensors, allow_unused=True)

    def plain(x, bias, *weights):
        outs = [conv2d_same(x, weight) for weight in weights]
        return [sum(outs) + bias[:, None, None]] if total else outs

    ours = penalty(lambda x, bias, *weights: TritonFunction.apply(x, bias if total else None, total, *weights))
    for gradient, expected in zip(ours, penalty(plain)):
        assert (gradient is None) == (expected is None)
        assert gradient is None or (gradient - expected).abs().max() < 1e-4 * expected.abs().max()


def test_empty_batch():
    x, weights, grads = make((0, 2, 7, 7), STRIPES)
    assert [y.shape for y in triton_kernels.branches(x, weights)] == [x.shape] * 3
    assert triton_kernels.summed(grads, weights).shape == x.shape
    assert not any(gradient.any() for gradient in triton_kernels.weight_gradients(x, grads, [w.shape for w in weights]))


@pytest.mark.slow
def test_compiles_without_graph_break():
    x, weights, grads = make((1, 1, 7, 7), [(13, 5), (5, 13)])

    def run(x, weights, grads):
        ys = triton_kernels.branches(x, weights)
        return [*ys, triton_kernels.summed([x] * 2, weights, weights[0].sum((1, 2, 3))),
                *triton_kernels.weight_gradients(x, grads, [weight.shape for weight in weights])]

    compiled = torch.compile(run, backend='aot_eager', fullgraph=True)
    x = x.contiguous(memory_format=torch.channels_last)
    for actual, expected in zip(compiled(x, weights, grads), run(x, weights, grads)):
        torch.testing.assert_close(actual, expected)
        assert actual.stride() == expected.stride()


@pytest.mark.slow
def test_operators():
    x, weights, grads = make((2, 1, 7, 7), [(13, 5), (5, 13)])
    checks = ('test_schema', 'test_faketensor')
    torch.library.opcheck(triton_kernels._branches, (x, weights), test_utils=checks)
    torch.library.opcheck(triton_kernels._sum, (grads, weights, None), test_utils=checks)
    torch.library.opcheck(triton_kernels._weight_gradients, (x, grads, [13, 5], [5, 13]), test_utils=checks)


@pytest.mark.parametrize('shapes, error', [
    ([], ValueError),
    ([(2, 1, 5, 5)] * 4, ValueError),
    ([(2, 1, 4, 5)], ValueError),
    ([(3, 1, 5, 5)], ValueError),
    ([(2, 2, 5, 5)], ValueError),
    ([(2, 5, 5)], ValueError),
], ids=str)
def test_refuses_kernels(shapes, error):
    x = torch.zeros(1, 2, 7, 7)
    with pytest.raises(error):
        triton_kernels.branches(x, [torch.zeros(shape) for shape in shapes])
    with pytest.raises(error):
        triton_kernels.summed([x] * len(shapes), [torch.zeros(shape) for shape in shapes])
    with pytest.raises(error):
        triton_kernels.weight_gradients(x, [x] * len(shapes), shapes)


def test_refuses_maps():
    weight = torch.zeros(2, 1, 5, 5)
    with pytest.raises(TypeError, match='float64'):
        triton_kernels.branches(torch.zeros(1, 2, 7, 7).double(), [weight])
    with pytest.raises(ValueError, match='one shape'):
        triton_kernels.summed([torch.zeros(1, 2, 7, 7), torch.zeros(1, 2, 7, 8)], [weight] * 2)
    with pytest.raises(ValueError, match='1 maps and 2 kernels'):
        triton_kernels.summed([torch.zeros(1, 2, 7, 7)], [weight] * 2)


def test_available_in_interpreter():
    assert triton_kernels.unavailable_reason(torch.device('cpu')) is None


def test_unavailable_on_the_cpu(monkeypatch):
    monkeypatch.setattr(triton_kernels, 'INTERPRETED', False)
    assert 'cpu, not cuda' in triton_kernels.unavailable_reason('cpu')


def test_imports_without_triton():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'triton', None)
        reload()
        assert 'not installed' in triton_kernels.unavailable_reason('cuda')
    reload()


def test_imports_on_an_old_torch():
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(torch.library, 'custom_op')
        reload()
        assert '2.4' in triton_kernels.unavailable_reason('cuda')
    reload()


@pytest.mark.parametrize('capability', [(7, 5), (8, 0), (9, 0), (12, 0)])
def test_capability(capability, monkeypatch):
    monkeypatch.setattr(triton_kernels, 'INTERPRETED', False)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(torch.version, 'hip', None)
    assert (triton_kernels.unavailable_reason('cuda') is None) is (capability >= (8, 0))


class Compiler:
    """Stands in for a kernel: compiles what would be launched, for a GPU that need not be there."""

    def __init__(self, kernel, capability):
        self.kernel, self.capability, self.compiled = kernel, capability, []

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **options):
        signature, constants, attributes = {}, {}, {}
        for i, (name, value) in enumerate(zip(self.kernel.arg_names, args)):
            if isinstance(value, torch.Tensor):
                signature[name] = f"*{dict(float32='fp32', float16='fp16', bfloat16='bf16')[str(value.dtype)[6:]]}"
            else:
                signature[name] = 'i32'
            if isinstance(value, torch.Tensor) or value % 16 == 0:
                attributes[i, ] = [['tt.divisibility', 16]]
        for name in self.kernel.arg_names[len(args):]:
            signature[name], constants[name] = 'constexpr', options.pop(name)
        source = compiler.ASTSource(self.kernel, signature, constants, attributes)
        target = GPUTarget('cuda', self.capability, 32)
        self.compiled.append(triton.compile(source, target=target, options=options))


def test_what_the_interpreter_leaves_is_put_back():
    core = triton.language.core
    for part, name in ((core, 'load'), (core.tensor, '__mul__')):
        own = getattr(part, name)
        setattr(part, name, lambda *args, **kwargs: None)
        with reloaded('0'):
            assert getattr(part, name) is own


@pytest.mark.slow
@pytest.mark.skipif('nvidia' not in triton.backends.backends, reason='Triton without its NVIDIA backend')
@pytest.mark.skipif(not hasattr(triton, 'constexpr_function'), reason='inner parts of Triton before 3.4 differ')
@pytest.mark.parametrize('capability, dtype, size, instruction', [
    (80, torch.float32, 14, 'mma.sync'),
    (80, torch.bfloat16, 56, 'mma.sync'),
    (90, torch.bfloat16, 56, 'wgmma'),
], ids=str)
def test_compiles_for_gpus(capability, dtype, size, instruction):
    """To tensor core instructions, within the shared memory of every GPU from sm_80 on."""
    x, weights, grads = make((2, 2, size, size), STRIPES, dtype)
    with reloaded('0'), pytest.MonkeyPatch.context() as patch:
        convolution, gradient = Compiler(triton_kernels._conv_kernel, capability), Compiler(triton_kernels._weight_kernel, capability)
        patch.setattr(triton_kernels, '_conv_kernel', convolution)
        patch.setattr(triton_kernels, '_weight_kernel', gradient)
        patch.setattr(triton_kernels, '_precision', lambda x: 'tf32' if x.dtype == torch.float32 else 'ieee')
        triton_kernels.branches(x, weights)
        triton_kernels.summed([x] * 2, weights[:2], torch.zeros(2))
        triton_kernels.weight_gradients(x, grads, [weight.shape for weight in weights])
    assert len(convolution.compiled) == 2 and len(gradient.compiled) == 3
    for kernel in convolution.compiled + gradient.compiled:
        assert instruction in kernel.asm['ptx'] and kernel.metadata.shared <= 99 * 1024
