"""Half precision on a CPU: outputs that numpy takes, operators of mmcv, a CPU that is slow in it."""
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from torch import nn

from slak_mm.errors import UserError
from slak_mm.models import precision
from slak_mm.models.ops import large_kernel_branches
from slak_mm.models.precision import as_float, autocast_cpu, autocast_forward, has_bf16_instructions, prepare_cpu_bf16


def test_outputs_are_float32():
    half, whole = torch.ones(2).bfloat16(), torch.ones(2, dtype=torch.long)
    sample = InstanceData(scores=half, labels=whole)
    outer = PixelData(logits=torch.ones(1, 2, 2).half())
    found = as_float([dict(a=half, b=(whole, 'text')), sample, outer, None])
    assert found[0]['a'].dtype == sample.scores.dtype == outer.logits.dtype == torch.float32
    assert found[0]['b'] == (whole, 'text') and found[1] is sample and sample.labels is whole and found[3] is None


def test_a_model_in_half_precision():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    seen, x = [], torch.randn(3, 4)
    model[0].register_forward_hook(lambda layer, inputs, out: seen.append(out.dtype))
    expected = model(x)
    autocast_forward(model)
    out = model(x)
    assert seen == [torch.float32, torch.bfloat16] and out.dtype == torch.float32 and not torch.equal(out, expected)
    torch.testing.assert_close(out, expected, rtol=.05, atol=.05)


def test_an_operator_without_bfloat16_is_named_in_one_line():
    with pytest.raises(UserError, match=r'does not run in bfloat16: .*Leave out --amp'), autocast_cpu():
        torch.zeros(2, dtype=torch.bfloat16)[torch.tensor([0])] = torch.ones(1)  # as some heads of mmdet do
    with pytest.raises(RuntimeError, match='mine'), autocast_cpu():
        raise RuntimeError('mine')


def test_operators_of_mmcv_take_and_return_bfloat16():
    ops = pytest.importorskip('mmcv.ops')
    prepare_cpu_bf16()
    x = torch.randn(1, 4, 8, 8).bfloat16().float()
    boxes = torch.tensor([[0, 1., 1., 6., 5.]])
    outs, grads = [], []
    for dtype in (torch.bfloat16, torch.float32):
        inputs = x.detach().to(dtype).requires_grad_()
        outs.append(ops.roi_align(inputs, boxes, (2, 2)))
        outs[-1].float().square().sum().backward()
        grads.append(inputs.grad)
    assert [tensor.dtype for tensor in outs + grads] == [torch.bfloat16, torch.float32] * 2
    for low, high in (outs, grads):
        torch.testing.assert_close(low.float(), high, rtol=.02, atol=.02)
    kept = ops.nms(torch.tensor([[0, 0, 4., 4.], [0, 0, 4., 3.9], [5, 5, 8., 8.]]).bfloat16(), torch.tensor([.5, .6, .7]), .5)[1]
    assert kept.tolist() == [2, 1]


@pytest.mark.parametrize('size', [(5, 51), (31, 31)])
def test_few_channels_under_a_wide_kernel(size):
    """oneDNN's own bfloat16 kernel does not end here."""
    x, weight = torch.randn(1, 10, 32, 32), torch.randn(10, 1, *size)
    expected, = large_kernel_branches(x, [weight])
    with autocast_cpu():
        out, = large_kernel_branches(x, [weight.requires_grad_()])
    out.sum().backward()
    assert out.dtype == torch.bfloat16 and weight.grad.isfinite().all()
    torch.testing.assert_close(out.float(), expected, rtol=.05, atol=.5)


@pytest.mark.parametrize('flags, supported', [('fpu avx512f avx512_bf16', True), ('fpu avx2 avx512f', False),
                                              ('Features : fp asimd bf16', True), (None, None)])
def test_what_the_cpu_says(flags, supported, monkeypatch, tmp_path):
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(precision, 'CPUINFO', tmp_path / 'cpuinfo')
    if flags is not None:
        (tmp_path / 'cpuinfo').write_text(flags)
    assert has_bf16_instructions() is supported


def test_it_warns_once_where_it_is_slow(monkeypatch):
    said = []
    monkeypatch.setattr(precision, 'has_bf16_instructions', lambda: False)
    monkeypatch.setattr(precision, 'print_log', lambda line, *_: said.append(line))
    monkeypatch.setattr(precision, 'import_module', lambda name: exec('raise ImportError'))  # mmcv's were prepared before
    prepare_cpu_bf16.cache_clear()
    prepare_cpu_bf16()
    prepare_cpu_bf16()
    assert len(said) == 1 and 'WILL BE SLOWER' in said[0]
