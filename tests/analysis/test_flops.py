"""Parameters and multiply-adds: against counts by hand and against mmengine's counter."""
import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn

from slak_mm.analysis.flops import (
    Pretraining,
    allocate,
    complexity,
    densities_of_masks,
    densities_of_weights,
    kernel_scaling,
)
from slak_mm.sparsity import Masks, maskable

ARCH = dict(depths=(1, 1, 2, 1), channels=(4, 6, 8, 10))
BACKBONE = dict(arch=ARCH, width_factor=1., kernel_sizes=(9, 7, 5, 5), small_kernel_size=3)
SIZE = 64, 32
MULTIPLY = 'conv', 'linear', 'addmm', 'matmul'


@pytest.fixture
def model() -> nn.Module:
    return Pretraining(BACKBONE, classes=7)


def by_hand() -> int:
    """The decomposed network of ``BACKBONE``, stage by stage."""
    macs, previous, area = 0, 3, SIZE[0] * SIZE[1] // 16
    for i, (depth, width, kernel) in enumerate(zip(ARCH['depths'], ARCH['channels'], BACKBONE['kernel_sizes'])):
        area //= 4 if i else 1
        macs += area * width * previous * (4 if i else 16)
        macs += depth * area * width * (2 * 3 * kernel + 3 * 3 + 2 * 4 * width)
        previous = width
    return macs + 7 * previous


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_dense(model, device):
    # stage 4's map is 2x1: kernels reach far beyond it, and every tap counts
    counted = complexity(model.to(device), SIZE)
    assert counted.macs == counted.sparse_macs == by_hand() and counted.other_macs == 0
    assert counted.parameters == counted.sparse_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_merged_counts_one_branch_less(model):
    dense = complexity(model, SIZE)
    model.eval().backbone.switch_to_deploy()
    small = sum(layer.macs for layer in dense.layers if '.small.' in layer.name)
    assert small and complexity(model, SIZE).macs == dense.macs - small


@pytest.mark.parametrize('form', ['decomposed', 'reparam', 'naive'])
def test_equals_mmengine(form):
    model = Pretraining(dict(BACKBONE, large_kernel=form), classes=7).eval()
    analyzer = FlopAnalyzer(model, (torch.randn(1, 3, *SIZE), )).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    theirs = analyzer.tracer_warnings('none').by_module_and_operator()
    for layer in complexity(model, SIZE).layers:
        assert layer.macs == sum(theirs[layer.name[:-len('.weight')]][operator] for operator in MULTIPLY)


def test_products_without_weights_count_as_dense():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Conv2d(3, 5, 1)

        def forward(self, x):
            x = self.project(x).flatten(2)
            return x.transpose(1, 2) @ x

    counted = complexity(Attention(), (4, 4), {'project.weight': .5})
    assert counted.macs == 16 * 15 + 16 * 16 * 5 and counted.other_macs == 16 * 16 * 5
    assert counted.sparse_macs == 8 * 15 + 16 * 16 * 5
    assert (counted.parameters, counted.sparse_parameters) == (20, 12)  # 7.5 weights and 5 biases, to the even number


def test_sparse(model):
    dense = complexity(model, SIZE)
    assert complexity(model, SIZE, {layer.name: 1. for layer in dense.layers}) == dense
    half = complexity(model, SIZE, {layer.name: .5 for layer in dense.layers})
    assert half.macs == dense.macs and half.sparse_macs == round(dense.macs / 2)
    one = complexity(model, SIZE, {'head.fc.weight': 10 / 70})
    assert one.sparse_macs == dense.macs - 60 and one.sparse_parameters == dense.parameters - 60


def test_masks_and_zeros_of_a_model_agree(model):
    params = maskable(model)
    names = ['backbone.stages.0.0.pwconv1.weight', 'backbone.stages.2.1.large_kernel.tall.conv.weight']
    masks = Masks(params)
    masks.assign({name: torch.rand(p.shape) < .3 if name in names else None for name, p in params.items()})
    masks.apply_()
    expected = {name: int(params[name].count_nonzero()) / params[name].numel() for name in names}
    assert densities_of_masks(model, masks.state_dict()) == densities_of_weights(model) == expected


def test_masks_of_another_model(model):
    state = Masks(maskable(model)).state_dict()
    assert densities_of_masks(model, {**state, 'decode_head.weight': dict(shape=[1, 1], bits=None)}) == {}
    wide = Pretraining(dict(BACKBONE, width_factor=2.), classes=7)
    with pytest.raises(ValueError, match='not of this model'):
        densities_of_masks(wide, state)
    with pytest.raises(ValueError, match='not of this model'):
        densities_of_masks(nn.Conv2d(1, 1, 1), state)


@pytest.mark.parametrize('densities', [{'nothing.weight': .5}, {'head.fc.weight': 1.5}])
def test_wrong_densities(model, densities):
    with pytest.raises(ValueError, match=next(iter(densities))):
        complexity(model, SIZE, densities)


@pytest.mark.parametrize('allocation', ['snip', 'erk', 'uniform'])
def test_allocate(model, allocation):
    densities = allocate(BACKBONE, allocation, .4, classes=7, size=SIZE)
    params = maskable(model)
    assert densities.keys() == params.keys() and all(0 <= density <= 1 for density in densities.values())
    total = sum(p.numel() for p in params.values())
    assert sum(densities[name] * p.numel() for name, p in params.items()) == pytest.approx(.6 * total, abs=1)
    assert densities == allocate(BACKBONE, allocation, .4, classes=7, size=SIZE)


def test_snip_is_of_the_pretraining_whatever_the_task():
    task = dict(out_indices=(0, 1, 2, 3), gap_before_final_norm=False, layer_scale_init_value=1., drop_path_rate=.4,
                init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'))
    assert allocate({**BACKBONE, **task}, 'snip', .4, size=SIZE) == allocate(BACKBONE, 'snip', .4, size=SIZE)


@pytest.mark.parametrize('allocation, sparsity', [('best', .4), ('erk', 1.), ('erk', -.1)])
def test_invalid_allocation(allocation, sparsity):
    with pytest.raises(ValueError, match='allocation' if allocation == 'best' else 'sparsity'):
        allocate(BACKBONE, allocation, sparsity)


def test_kernel_scaling():
    counted = kernel_scaling((7, 9), arch=ARCH, size=32)
    naive, decomposed = counted['naive'], counted['decomposed']
    places = sum(depth * width * 64 // 4**i for i, (depth, width) in enumerate(zip(ARCH['depths'], ARCH['channels'])))
    channels = sum(depth * width for depth, width in zip(ARCH['depths'], ARCH['channels']))
    assert naive[1].macs - naive[0].macs == places * (81 - 49)
    assert decomposed[1].macs - decomposed[0].macs == places * 2 * 5 * 2
    assert naive[1].parameters - naive[0].parameters == channels * (81 - 49)
