"""The drop-in for the CUDA extension ``depthwise_conv2d_implicit_gemm``."""
import importlib
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slak_mm
from slak_mm import implicit_gemm


@pytest.fixture
def provided(monkeypatch):
    monkeypatch.delitem(sys.modules, implicit_gemm.NAME, raising=False)
    slak_mm.provide_implicit_gemm()
    yield importlib.import_module(implicit_gemm.NAME)
    sys.modules.pop(implicit_gemm.NAME, None)


@pytest.mark.parametrize('kernel', [31, 7, 3, (51, 5), (5, 51)], ids=str)
@pytest.mark.parametrize('bias', [False, True])
def test_module_is_a_padded_depthwise_convolution(provided, kernel, bias):
    conv = provided.DepthWiseConv2dImplicitGEMM(4, kernel, bias=bias)
    stock = nn.Conv2d(4, 4, kernel, padding=conv.padding, groups=4, bias=bias)
    stock.load_state_dict(conv.state_dict())
    x = torch.randn(2, 4, 17, 20, requires_grad=True)
    grad = torch.randn(2, 4, 17, 20)
    results = [[module(x), *torch.autograd.grad(module(x), [x, *module.parameters()], grad)] for module in (conv, stock)]
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_module_computes_in_the_type_of_its_input(dtype):
    conv = implicit_gemm.DepthWiseConv2dImplicitGEMM(2, 13)
    x = torch.randn(1, 2, 9, 9)
    out = conv(x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), conv(x), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize('name, dtype', [('_DepthWiseConv2dImplicitGEMMFP32', torch.float32), ('_DepthWiseConv2dImplicitGEMMFP16',
                                                                                              torch.float16)])
def test_functions_of_kernels_that_are_computed(provided, name, dtype):
    """As SMPConv uses them, under autocast too."""
    x, kernels = torch.randn(2, 3, 10, 9, requires_grad=True), torch.randn(3, 1, 7, 7, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        out = getattr(provided, name).apply(x, kernels)
    expected = F.conv2d(x, kernels, padding=3, groups=3)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=5e-2 if dtype == torch.float16 else 1e-4, rtol=1e-2)
    grads = [torch.autograd.grad(result.float().square().sum(), [x, kernels]) for result in (out, expected)]
    for actual, reference in zip(*grads):
        assert (actual - reference).norm() < (1e-2 if dtype == torch.float16 else 1e-5) * reference.norm()


@pytest.mark.parametrize('kernel', [4, (3, 6)])
def test_even_kernels_are_refused(kernel):
    with pytest.raises(ValueError, match='odd sides'):
        implicit_gemm.DepthWiseConv2dImplicitGEMM(2, kernel)
    with pytest.raises(ValueError, match='odd sides'):
        implicit_gemm._DepthWiseConv2dImplicitGEMMFP32.apply(torch.zeros(1, 2, 9, 9), torch.zeros(2, 1, 3, 4))


def test_one_that_was_imported_before_is_told_of(monkeypatch):
    monkeypatch.setitem(sys.modules, implicit_gemm.NAME, ModuleType(implicit_gemm.NAME))
    with pytest.warns(UserWarning, match='imported before'):
        slak_mm.provide_implicit_gemm()
    assert sys.modules[implicit_gemm.NAME] is implicit_gemm
