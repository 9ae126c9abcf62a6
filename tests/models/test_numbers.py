"""Integers where a fraction is meant, and numbers of numpy: each numeric option takes them."""
import numpy as np
import pytest
import torch
from torch import nn

from slak_mm.models import SLaK
from slak_mm.sparsity import DynamicSparsity

PLAIN = dict(arch=dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20)), in_channels=4, kernel_sizes=(7, 7, 7, 5), small_kernel_size=3,
             width_factor=1.5, drop_path_rate=.25, layer_scale_init_value=.5, out_indices=(0, 3), frozen_stages=1,
             norm_cfg=dict(type='BN'))
SPARSE = dict(total_steps=40, init='uniform', sparsity=.5, interval=10, prune_rate=.25, min_prune_rate=.125, stop_at=.75, seed=3)


@pytest.mark.parametrize('options', [
    {name: np.array(value) for name, value in PLAIN.items() if isinstance(value, (int, float, tuple))},
    {name: tuple(map(np.int64, value)) for name, value in PLAIN.items() if isinstance(value, tuple)},
    {name: np.float32(value) for name, value in PLAIN.items() if isinstance(value, float)},
    {name: np.int32(value) for name, value in PLAIN.items() if isinstance(value, int)},
    dict(out_indices=[0, 3], kernel_sizes=[7, 7, 7, 5], arch=dict(depths=np.array([1, 1, 2, 1]), channels=[8, 12, 16, 20]))])
def test_the_backbone(options):
    torch.manual_seed(0)
    expected = SLaK(**PLAIN).state_dict()
    torch.manual_seed(0)
    found = SLaK(**{**PLAIN, **options}).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize('name, value', [('layer_scale_init_value', 1), ('width_factor', 2), ('drop_path_rate', 0)])
def test_integers_for_fractions(name, value):
    model = SLaK(**{**PLAIN, name: value})
    assert all(param.is_floating_point() for param in model.parameters())
    expected = SLaK(**{**PLAIN, name: float(value)})
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in expected.state_dict().items()}
    model(torch.rand(2, 4, 64, 64))[0].sum().backward()


@pytest.mark.parametrize('kind', [np.float32, np.float64, np.array])
def test_sparsity(kind):
    numbers = {name: kind(value)[()] if isinstance(value, float) else np.int64(value)
               for name, value in SPARSE.items() if name != 'init'}
    config = DynamicSparsity(nn.Linear(8, 8), **SPARSE).config
    found = DynamicSparsity(nn.Linear(8, 8), **{**SPARSE, **numbers}).config
    assert found == config and {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in config.items()}


def test_integers_for_shares():
    sparsity = DynamicSparsity(nn.Linear(8, 8), 10, sparsity=0, init='uniform', prune_rate=1, min_prune_rate=0)
    sparsity.initialize()
    assert sparsity.masks.density == 1
    with pytest.raises(ValueError, match='interval must be an integer'):
        DynamicSparsity(nn.Linear(8, 8), 10, interval=True)
