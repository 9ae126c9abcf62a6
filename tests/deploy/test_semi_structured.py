"""2:4 weights where the GPU knows them; dense, and said so, where not."""
import pytest
import torch
from micro_configs import ARCH
from torch import nn

from slak_mm.deploy import to_semi_structured
from slak_mm.models import SLaK
from slak_mm.sparsity import DynamicSparsity


def slak(pattern='2:4', **kwargs):
    torch.manual_seed(0)
    model = SLaK(**dict(dict(arch=ARCH, kernel_sizes=(7, 7, 5, 3), small_kernel_size=3), norm_cfg=dict(type='BN'), **kwargs)).eval()
    if pattern:
        DynamicSparsity(model, 10, init='checkpoint', pattern=pattern, grow=None).initialize()
    return model


@pytest.fixture
def lines(monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.deploy.semi_structured.print_log', lambda line, *_: lines.append(line))
    return lines


def test_on_a_cpu_all_stay_dense(lines):
    model = slak()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)[0]
    assert to_semi_structured(model) == [] and torch.equal(model(x)[0], expected)
    assert lines[0].startswith('2:4: 0 layers on sparse tensor cores; 10 stay dense: ')
    assert to_semi_structured(slak(None)) == [] and lines[1].endswith('; 10 stay dense: other weights than 2:4.')


def test_what_torch_converts_is_used(lines, monkeypatch):

    class Converted(torch.Tensor):

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            out = super().__torch_function__(func, types, args, kwargs or {})
            return out.as_subclass(torch.Tensor) if func is nn.functional.linear else out

    monkeypatch.setattr(torch.sparse, 'to_sparse_semi_structured', lambda weight: weight.as_subclass(Converted), raising=False)
    model = slak()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)[0]
    names = to_semi_structured(model)
    assert len(names) == 10 and lines == ['2:4: 10 layers on sparse tensor cores.']
    assert not model.stages[0][0]._may_bypass(x.new_zeros(1, 4, 4, 10))  # its layers are called
    torch.testing.assert_close(model(x)[0], expected)
    monkeypatch.delattr(torch.sparse, 'to_sparse_semi_structured')
    assert to_semi_structured(slak()) == [] and 'older than 2.1' in lines[-1]


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason='needs a GPU from Ampere on')
def test_on_a_gpu():
    arch = dict(depths=(1, 1, 1, 1), channels=(48, 96, 192, 384))
    model = slak(arch=arch, width_factor=4 / 3, layer_scale_init_value=1.).cuda().half()
    x = torch.randn(2, 3, 64, 64, device='cuda', dtype=torch.half)
    with torch.no_grad():
        expected = model(x)[0]
        assert len(to_semi_structured(model)) == 8
        torch.testing.assert_close(model(x)[0], expected, rtol=1e-2, atol=1e-2)
    assert all(isinstance(layer, nn.Linear) for layer in (model.stages[0][0].pwconv1, model.stages[0][0].pwconv2))
