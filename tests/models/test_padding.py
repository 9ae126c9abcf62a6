"""``switch_to_deploy(pad=...)``: wider maps inside, the same outputs."""
import copy

import pytest
import torch
from checkpoint_helpers import randomise

from slak_mm import SLaK
from slak_mm.deploy import compact
from slak_mm.models.large_kernel import FORMS

ARCH = dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20))


def build(**kwargs):
    model = SLaK(ARCH, kernel_sizes=(9, 7, 7, 5), norm_cfg=dict(type='BN'), **kwargs)
    randomise(model)
    return model.eval()


@torch.no_grad()
def assert_equal_when_padded(model, pad=16):
    images = torch.randn(2, 3, 64, 96)
    expected = model(images)
    padded = copy.deepcopy(model)
    for _ in range(2):  # the second call changes nothing
        padded.switch_to_deploy(pad)
        for ours, theirs in zip(padded(images), expected):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * max(1, float(theirs.abs().max())))
    return padded


@pytest.mark.parametrize('form', FORMS)
def test_outputs_stay_equal(form):
    padded = assert_equal_when_padded(build(large_kernel=form, out_indices=(0, 1, 2, 3), gap_before_final_norm=False))
    convs = [layer for layer in padded.modules() if isinstance(layer, torch.nn.Conv2d) and layer.groups > 1]
    assert convs and all(conv.weight.shape[0] == conv.groups == -(-conv.groups // 16) * 16 for conv in convs)
    assert padded.channels == (10, 15, 20, 26)


def test_a_trace_of_a_padded_model():
    padded = assert_equal_when_padded(build())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(padded, images)
        torch.testing.assert_close(traced(images)[0], padded(images)[0], rtol=0, atol=1e-5)


def test_after_pooling_and_without_a_layer_scale():
    assert_equal_when_padded(build(layer_scale_init_value=0))


def test_widths_that_are_a_multiple_already():
    model = build(width_factor=1.)
    padded = assert_equal_when_padded(model, 4)
    model.switch_to_deploy()
    assert {name: value.shape for name, value in padded.named_parameters()} == {
        name: value.shape for name, value in model.named_parameters()}


def test_filters_that_were_cut_out_are_zeros_again():
    model = build()
    with torch.no_grad():
        for block in model.stages[2]:
            block.large_kernel.tall.conv.weight[[1, 3]] = 0
    compact(model)
    assert model.stages[2][0].large_kernel.has_filters_left_out
    padded = assert_equal_when_padded(model)
    assert not padded.stages[2][0].large_kernel.has_filters_left_out


def test_nothing_is_changed_if_a_layer_cannot_be_merged():
    model = build()
    model.stages[3][0].large_kernel.tall.conv.register_forward_hook(lambda *args: None)
    before = model.state_dict()
    with pytest.raises(TypeError, match='undo that first'):
        model.switch_to_deploy(16)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
