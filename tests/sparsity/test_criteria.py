import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slak_mm.sparsity.criteria import GROW, PRUNE, highest, lowest

pytestmark = pytest.mark.filterwarnings('error')
fast = settings(deadline=None)
few_levels = st.lists(st.integers(-3, 3), min_size=1, max_size=40)  # many ties


def layer(grad=None):
    param = nn.Parameter(torch.zeros(2, 4))
    if grad is not None:
        param.grad = torch.tensor(grad).view(2, 4)
    return param


@fast
@given(few_levels, st.data())
def test_lowest_and_highest_are_those_of_a_stable_sort(values, data):
    count = data.draw(st.integers(0, len(values)))
    order = sorted(range(len(values)), key=lambda i: values[i])
    assert sorted(lowest(torch.tensor(values).float(), count).tolist()) == sorted(order[:count])
    order = sorted(range(len(values)), key=lambda i: -values[i])
    assert sorted(highest(torch.tensor(values).float(), count).tolist()) == sorted(order[:count])


@pytest.mark.parametrize('spread', [1e-9, .5, 3])  # from nearly all equal, where the sample's bound is of no use, to hardly a tie
@pytest.mark.parametrize('share', [1e-4, .1, .9])
def test_large_layers_are_ranked_exactly(spread, share):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200_000, generator=generator).mul(spread).round(decimals=2)
    among = torch.rand(200_000, generator=generator) < share
    places = among.nonzero().squeeze(1)
    for count in (1, len(places) // 3, len(places)):
        expected = places[values[places].sort(stable=True).indices[:count]]
        assert torch.equal(lowest(values, count, among).sort().values, expected.sort().values)
        expected = places[values[places].neg().sort(stable=True).indices[:count]]
        assert torch.equal(highest(values, count, among).sort().values, expected.sort().values)
    assert torch.equal(lowest(values, 500).sort().values, values.sort(stable=True).indices[:500].sort().values)


@pytest.mark.parametrize('rule', PRUNE)
def test_only_active_weights_are_pruned(rule):
    weights, active = torch.randn(1000), torch.rand(1000) < .6
    pruned = PRUNE[rule](weights, 100, active)
    assert active[pruned].all() and pruned.unique().numel() == 100
    alone = active.nonzero().squeeze(1)[PRUNE[rule](weights[active], 100)]
    assert torch.equal(pruned.sort().values, alone.sort().values)


def test_nan_is_refused_not_miscounted():
    with pytest.raises(ValueError, match='NaN'):
        lowest(torch.tensor([1., float('nan'), 2.]), 3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_magnitude_takes_the_smallest(dtype):
    weights = torch.tensor([.5, -.1, 0., -2., .1, .3], dtype=dtype)
    assert sorted(PRUNE['magnitude'](weights, 1).tolist()) == [2]
    assert sorted(PRUNE['magnitude'](weights, 2).tolist()) == [1, 2]  # -.1 before .1: the lower index
    assert sorted(PRUNE['magnitude'](weights, 4).tolist()) == [1, 2, 4, 5]


def test_set_takes_the_smallest_positive_and_the_largest_negative():
    weights = torch.tensor([5., 4., 3., 2., -30., -20., 1., .5])  # six positive, two negative
    assert sorted(PRUNE['set'](weights, 4).tolist()) == [3, 5, 6, 7]  # three and one; magnitude would take no negative


@fast
@given(few_levels, st.data())
def test_set_is_exact_and_proportional(values, data):
    count = data.draw(st.integers(0, len(values)))
    weights = torch.tensor(values).float()
    pruned = PRUNE['set'](weights, count)
    assert pruned.unique().numel() == count
    negative = int((weights < 0).sum())
    taken = weights[pruned]
    from_negative = int((taken < 0).sum())
    assert abs(from_negative - count * negative / len(values)) <= .5
    assert sorted(taken[taken < 0].tolist()) == sorted(weights[weights < 0].tolist())[negative - from_negative:]
    assert sorted(taken[taken >= 0].tolist()) == sorted(weights[weights >= 0].tolist())[:count - from_negative]


@fast
@given(st.integers(0, 50), st.data())
def test_random_growth_is_exact_and_depends_on_the_generator_alone(size, data):
    count = data.draw(st.integers(0, size))
    inactive = torch.arange(size)
    draws = [GROW['random'](layer(), {}, inactive, count, torch.Generator().manual_seed(seed)) for seed in (1, 1)]
    assert draws[0].unique().numel() == count and torch.equal(*draws)


def test_random_growth_is_uniform():
    rng = torch.Generator().manual_seed(0)
    grown = torch.cat([GROW['random'](layer(), {}, torch.arange(10), 3, rng) for _ in range(4000)])
    counts = grown.bincount(minlength=10).double()
    chi2 = ((counts - 1200) ** 2 / 1200).sum()
    assert chi2 < 27.9  # 9 degrees of freedom, p = .001


def test_gradient_growth_takes_the_largest_among_the_inactive():
    param = layer([9., -8., 1., 2., -3., 0., 7., 7.])
    inactive = torch.tensor([2, 3, 4, 5, 7])
    grown = inactive[GROW['gradient'](param, {}, inactive, 3, None)]
    assert sorted(grown.tolist()) == [3, 4, 7]


def test_gradient_growth_without_a_gradient_is_an_error():
    with pytest.raises(ValueError, match=r'needs \.grad'):
        GROW['gradient'](layer(), {}, torch.arange(8), 1, None)


@pytest.mark.parametrize('key', ['exp_avg', 'momentum_buffer'])
def test_momentum_growth_takes_the_largest_moment(key):
    state = {'step': torch.tensor(3.), key: torch.tensor([[0., -9., 1., 2.], [-3., 8., 0., 0.]])}
    inactive = torch.tensor([0, 2, 3, 4])
    grown = inactive[GROW['momentum'](layer(), state, inactive, 2, None)]
    assert sorted(grown.tolist()) == [3, 4]


@pytest.mark.parametrize('state', [{}, {'momentum_buffer': None}])
def test_momentum_growth_without_momentum_is_an_error(state):
    with pytest.raises(ValueError, match='needs an optimizer that has exp_avg'):
        GROW['momentum'](layer(), state, torch.arange(8), 1, None)
