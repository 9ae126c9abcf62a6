import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slak_mm.sparsity import Schedule


def test_defaults_are_the_papers():
    schedule = Schedule(1000)
    assert (schedule.interval, schedule.prune_rate, schedule.min_prune_rate) == (100, .3, .005)
    assert [step for step in range(1100) if schedule.due(step)] == list(range(100, 1000, 100))


def test_rate_is_a_cosine():
    schedule = Schedule(1000)
    assert schedule.rate(0) == pytest.approx(.3)
    assert schedule.rate(250) == pytest.approx(.005 + .295 * (1 + math.sqrt(.5)) / 2)
    assert schedule.rate(500) == pytest.approx(.1525)
    assert schedule.rate(1000) == schedule.rate(2000) == pytest.approx(.005)


@pytest.mark.filterwarnings('ignore')
def test_rate_is_that_of_torchs_cosine_scheduler():
    import torch
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 70, eta_min=.005)
    for step in range(71):
        assert Schedule(70).rate(step) == pytest.approx(optimizer.param_groups[0]['lr'], rel=1e-9)
        optimizer.step()
        cosine.step()


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_rate_never_rises_and_stays_in_its_range(total, a, b):
    schedule = Schedule(total)
    early, late = schedule.rate(min(a, b)), schedule.rate(max(a, b))
    assert .005 <= late <= early <= .3 + 1e-12


@pytest.mark.parametrize('stop_at, last', [(None, 900), (1000, 900), (10**6, 900), (500, 400), (501, 500), (.5, 400),
                                           (.75, 700)])
def test_the_masks_stay_from_stop_at_on(stop_at, last):
    schedule = Schedule(1000, stop_at=stop_at)
    assert max(step for step in range(2000) if schedule.due(step)) == last


def test_stop_at_0_never_adapts():
    assert not any(Schedule(1000, stop_at=0).due(step) for step in range(1000))


@pytest.mark.parametrize('kwargs, message', [
    ({'total_steps': 0}, 'total_steps'),
    ({'total_steps': 10.}, 'total_steps'),
    ({'interval': 0}, 'interval'),
    ({'prune_rate': 1.1}, 'prune_rate'),
    ({'prune_rate': .001}, 'min_prune_rate'),
    ({'min_prune_rate': -.1}, 'min_prune_rate'),
    ({'stop_at': -1}, 'stop_at'),
    ({'stop_at': 1.}, 'stop_at'),
    ({'stop_at': 1.5}, 'stop_at'),
    ({'stop_at': '80%'}, 'stop_at'),
])
def test_values_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**{'total_steps': 1000, **kwargs})
