"""The Triton kernels on the GPU against float64: outputs and gradients, in each precision, for the maps that SLaK-T meets."""
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slak_mm import SLaK
from slak_mm.models import ops
from slak_mm.models.large_kernel import LargeKernel
from slak_mm.models.slak import LayerNorm2d, SLaKBlock

# precision: type of the tensors, whether tf32 is allowed, and the error that its rounding explains
PRECISIONS = dict(ieee=(torch.float32, False, 2e-6), tf32=(torch.float32, True, 2e-3), fp16=(torch.float16, True, 2e-3),
                  bf16=(torch.bfloat16, True, 1e-2))
# batch, channels, height, width and longer edge of the kernels
SHAPES = {'224, stage 1': (2, 6, 56, 56, 51), '224, stage 2': (2, 6, 28, 28, 49), '224, stage 3': (2, 6, 14, 14, 47),
          '224, stage 4': (9, 6, 7, 7, 13), '512, stage 1': (1, 4, 128, 128, 51), '512, stage 2': (1, 4, 64, 64, 49),
          '512, stage 3': (1, 4, 32, 32, 47), '512, stage 4': (1, 4, 16, 16, 13), 'odd sides': (1, 3, 33, 47, 51),
          'wide and low': (5, 3, 9, 130, 51)}


@contextmanager
def tf32(allowed):
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()  # a NaN is below nothing


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['NCHW', 'NHWC'])
@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('shape', SHAPES)
def test_op(shape, precision, memory_format, device, small):
    n, c, h, w, m = SHAPES[shape] if not small else (2, 1, 5, 7, 7)
    dtype, allowed, tolerance = PRECISIONS[precision]
    x = torch.randn(n, c, h, w, device=device, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    weights = [(torch.randn(c, 1, *edges, device=device) * .1).to(dtype).requires_grad_() for edges in ((m, 5), (5, m), (5, 5))]
    bias = torch.randn(c, device=device).to(dtype).requires_grad_()
    inputs = [x, bias, *weights]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    references = [F.conv2d(doubles[0], weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=c)
                  for weight in doubles[2:]]
    total = sum(references) + doubles[1][:, None, None]
    with tf32(allowed), ops.use_backend('triton'):
        out = ops.large_kernel_conv2d(x, weights, bias)
        branches = ops.large_kernel_branches(x, weights)
        grad = torch.randn_like(out)
        assert out.dtype == dtype and error(out, total) < tolerance
        for actual, expected in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(total, doubles, grad.double(),
                                                                                               retain_graph=True)):
            assert actual.dtype == dtype and error(actual, expected) < tolerance
        grads = [torch.randn_like(out) for _ in branches]
        found = torch.autograd.grad(branches, [x, *weights], grads)
    wanted = torch.autograd.grad(references, [doubles[0], *doubles[2:]], [grad.double() for grad in grads])
    for actual, expected in zip((*branches, *found), (*references, *wanted)):
        assert actual.dtype == dtype and error(actual, expected) < tolerance


@pytest.mark.parametrize('channels, side', [(124, 56), (249, 28), (499, 14), (998, 7), (128, 20)])
@pytest.mark.parametrize('autocast', [None, 'bfloat16', 'float16'])
def test_block(channels, side, autocast, device, small):
    """A norm before it, the whole block, drop path and residual, in training and in evaluation, by both backends."""
    if small:
        channels, side = 12, 5
    block = SLaKBlock(channels, LargeKernel(channels, 13, 5, 'decomposed', dict(type='BN')), .2, .5)
    module = nn.Sequential(LayerNorm2d(channels), block).to(device)
    x = torch.randn(4, channels, side, side, device=device)
    dtype = autocast and getattr(torch, autocast)
    found = []
    for backend in ('native', 'triton'):
        torch.manual_seed(0)
        copy = deepcopy(module)
        inputs = [x.requires_grad_(), *copy.parameters()]
        with ops.use_backend(backend), torch.autocast(device, dtype, enabled=autocast is not None):
            out = copy.train()(x)
            with torch.no_grad():
                evaluated = copy.eval()(x)
        found.append([out, evaluated, *torch.autograd.grad(out.float().square().mean() * 100, inputs)])
    for native, triton in zip(*found):
        assert native.dtype == triton.dtype and native.shape == triton.shape
        assert error(triton, native) < (3e-3 if autocast is None else 5e-2)  # convolutions in fp32 are tf32


def test_auto_agrees_and_chooses(device, small, recwarn):
    """No warning: neither backend fails, and they agree."""
    arch = dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)) if small else 'tiny'
    model = SLaK(arch, norm_cfg=dict(type='BN')).to(device)
    images = torch.randn(2, 3, *([32, 32] if small else [224, 224]), device=device)
    with ops.use_backend('auto'):
        out, = model.train()(images)
        out.sum().backward()
        with torch.no_grad():
            model.eval()(images)
    assert torch.isfinite(out).all() and all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert not [warning for warning in recwarn if 'slower native backend' in str(warning.message)]


def test_batch_of_one_and_merged(device, small):
    arch = dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)) if small else 'tiny'
    model = SLaK(arch, norm_cfg=dict(type='BN')).to(device).eval()
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, .1)
            module.running_var.uniform_(.5, 1.5)
    merged = deepcopy(model)
    merged.switch_to_deploy()
    images = torch.randn(1, 3, *([32, 48] if small else [224, 320]), device=device)
    with torch.no_grad(), tf32(False):
        with ops.use_backend('native'):
            expected, = model(images)
        with ops.use_backend('triton'):
            for found in (model, merged):
                assert error(found(images)[0], expected) < 1e-5
