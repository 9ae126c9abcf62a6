import numpy as np
import pytest
import torch
from torch import nn

from slak_mm.analysis.erf import area_ratio, area_ratios, contribution_scores, last_map, mean_scores, rescaled
from slak_mm.models import SLaK


@pytest.mark.parametrize('kernel_size', [1, 5, 9])
def test_support_of_one_convolution_is_its_kernel(kernel_size):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, kernel_size, padding=kernel_size // 2, bias=False)
    conv.weight.data.abs_()  # a pixel that lowers the centre would not count
    scores = contribution_scores(conv, torch.rand(2, 3, 20, 24))
    expected = torch.zeros(20, 24, dtype=torch.bool)
    reach = kernel_size // 2
    expected[10 - reach:11 + reach, 12 - reach:13 + reach] = True
    assert torch.equal(scores > 0, expected)


def test_scores_of_a_known_convolution():
    """Centre 2 * x00 - 3 * x01 of one colour: what lowers it does not count, and a centre below zero counts for nothing."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 0, :2] = torch.tensor([2., -3.])
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 1, 1] = 1
    expected = torch.zeros(5, 5)
    expected[1, 1] = 2
    assert torch.equal(contribution_scores(conv, image), expected)
    assert torch.equal(contribution_scores(conv, -image), torch.zeros(5, 5))
    assert (mean_scores(conv, [image, -image]) == expected.numpy() / 2).all()


def test_uniform_map_has_r_equal_to_t():
    for t, ratio in area_ratios(np.ones((255, 255))).items():
        share = float(t[:-1]) / 100
        assert share <= ratio < share + 2 * 2 / 255


def test_known_squares():
    scores = np.zeros((11, 11))
    scores[5, 5], scores[3, 3], scores[0, 10] = 5, 3, 2
    assert [area_ratio(scores, t) for t in (.4, .5, .6, .8, .9)] == [
        (1, 1 / 121), (1, 1 / 121), (5, 25 / 121), (5, 25 / 121), (11, 1.)]


def test_square_ends_at_the_edge_of_the_map():
    scores = np.zeros((8, 8))
    scores[0, 0] = 1
    assert area_ratio(scores, .5) == (9, 1.)


def test_monotone_in_t_and_blind_to_scale():
    scores = np.random.default_rng(0).random((32, 40))
    ratios = [area_ratio(scores, t)[1] for t in np.linspace(.01, .99, 50)]
    assert ratios == sorted(ratios) and area_ratios(scores) == area_ratios(scores * 8)


def test_rescaled_as_the_authors_do():
    scores = np.array([[0., 9.], [99., 999.]])
    assert np.allclose(rescaled(scores), [[0, 1 / 3], [2 / 3, 1]])


def test_last_map_is_the_last_stage_whatever_is_pooled():
    torch.manual_seed(0)
    backbone = SLaK(dict(depths=(1, 1, 1, 1), channels=(4, 4, 4, 8)), kernel_sizes=(7, 7, 5, 5), norm_cfg=dict(type='BN'),
                    width_factor=1.).eval()
    images = torch.randn(1, 3, 64, 64)
    out = last_map(backbone)(images)
    assert out.shape == (1, 8, 2, 2)
    assert torch.allclose(backbone.norm3(out.mean((2, 3), keepdim=True)).flatten(1), backbone(images)[-1], atol=1e-6)
    assert not backbone.stages[-1]._forward_hooks
    assert last_map(lambda images: (images, images + 1))(images).equal(images + 1)


def test_larger_kernels_see_more():
    def ratio(kernel_size):
        torch.manual_seed(0)
        backbone = SLaK(dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)), kernel_sizes=(kernel_size, ) * 4, norm_cfg=dict(type='BN'),
                        width_factor=1., layer_scale_init_value=1., large_kernel='naive').eval().requires_grad_(False)
        return area_ratio(mean_scores(last_map(backbone), [torch.randn(1, 3, 128, 128)]), .99)[1]

    assert ratio(3) < ratio(13)


def test_errors():
    with pytest.raises(ValueError, match='4 dimensions'):
        contribution_scores(lambda x: x.mean((2, 3)), torch.ones(1, 3, 8, 8))
    with pytest.raises(ValueError, match='not finite'):
        contribution_scores(lambda x: x * float('inf'), torch.ones(1, 3, 8, 8))
    with pytest.raises(ValueError, match='between 0 and 1'):
        area_ratio(np.ones((4, 4)), 20)
    for scores in (np.zeros((4, 4)), -np.ones((4, 4))):
        with pytest.raises(ValueError, match='all zero'):
            area_ratio(scores, .5)
