"""Sparsity that rises: the cubic ramp, and Chase's move from weights to neurons."""
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsity_helpers import Net, assert_same_bits, build, train
from units_helpers import Net as UnitsNet
from units_helpers import assert_whole

from slak_mm.compat import load_weights_only
from slak_mm.sparsity.schedule import Ramp

pytestmark = pytest.mark.filterwarnings('error')
STEPS = 20


def test_the_curve():
    ramp = Ramp(2, .5, 4, 40)  # from 2 to 20
    assert [ramp.progress(step) for step in (0, 2, 11, 20, 40)] == [0, 0, .875, 1, 1]
    assert [step for step in range(41) if ramp.due(step)] == [4, 8, 12, 16, 20]
    assert [step for step in range(41) if Ramp(0, 5, 4, 40).due(step)] == [4, 8]  # the first one from its end on


@pytest.mark.parametrize('arguments', [(-1, 5), (5, 5), (0, 38), (True, 5), (0, 1.)])
def test_a_ramp_out_of_range(arguments):
    with pytest.raises(ValueError, match='ramp'):
        Ramp(*arguments, 4, 40)


@settings(max_examples=20, deadline=None)
@given(grow=st.sampled_from([None, 'random', 'gradient']), start=st.sampled_from([None, .1, .4]),
       init=st.sampled_from(['uniform', 'erk']), pre_hook=st.booleans())
def test_weights_follow_the_curve_and_end_at_the_target(grow, start, init, pre_hook):
    model = Net()
    constant, _ = build(Net(), init=init)
    constant.initialize()
    sparsity, optimizer = build(model, total_steps=STEPS, grow=grow, init=init, start_sparsity=start, ramp=(2, 12))
    sparsity.initialize()
    masks = sparsity.masks
    assert abs(masks.density - (1 - (start or 0))) < .01
    counts = [masks.counts()]
    for step in range(STEPS):
        train(model, sparsity, optimizer, [step], pre_hook)
        counts.append(masks.counts())
        assert sum(int(p.count_nonzero()) for p in masks.params.values()) <= masks.nonzero
    for name, final in constant.masks.counts().items():
        size, first = masks.params[name].numel(), counts[0][name]
        assert first == size - round((size - final) * ((start or 0) / .4))
        for step in range(STEPS + 1):
            due = min(step - step % 2, 12)
            assert counts[step][name] == first - round((first - final) * (1 - (1 - max(due - 2, 0) / 10)**3))
    assert masks.counts() == constant.masks.counts() and masks.nonzero == round(.6 * masks.total)


def test_what_dies_is_the_smallest():
    model = Net()
    sparsity, optimizer = build(model, 'sgd', total_steps=STEPS, grow=None, ramp=(0, 4))
    sparsity.initialize()
    assert sparsity.masks.density == 1 and all(mask.all() for mask in sparsity.masks.active.values())
    optimizer.param_groups[0].update(lr=0.)
    before = {name: p.detach().clone() for name, p in sparsity.masks.params.items()}
    train(model, sparsity, optimizer, range(4))
    for name, mask in sparsity.masks.active.items():
        assert before[name][~mask].abs().max() <= before[name][mask].abs().min()


@pytest.mark.parametrize('granularity', ['neuron', 'filter', dict(neuron=.3, weight=.2)], ids=str)
def test_units_die_over_time(granularity):
    model = UnitsNet()
    sparsity, optimizer = build(model, granularity=granularity, total_steps=STEPS, ramp=(2, 12))
    constant, _ = build(UnitsNet(), granularity=granularity)
    constant.initialize()
    sparsity.initialize()
    assert sparsity.masks.density == 1
    alive = [sum(sparsity.units.counts().values())]
    for step in range(STEPS):
        train(model, sparsity, optimizer, [step])
        assert_whole(sparsity, optimizer)
        alive.append(sum(sparsity.units.counts().values()))
    assert alive == sorted(alive, reverse=True)
    assert sparsity.units.counts() == constant.units.counts() and sparsity.masks.counts() == constant.masks.counts()


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(grow=st.sampled_from(['random', 'gradient']), init=st.sampled_from(['uniform', 'erk']), broken_at=st.integers(0, STEPS))
def test_from_weights_to_neurons_at_equal_total(grow, init, broken_at):
    options = dict(granularity=dict(neuron=.3, weight=.2), total_steps=STEPS, ramp=(2, 12), start_sparsity='equal', grow=grow,
                   init=init)
    model, file = UnitsNet(), io.BytesIO()
    run = (model, *build(model, **options))
    sparsity = run[1]
    constant, _ = build(UnitsNet(), granularity=options['granularity'], init=init)
    constant.initialize()
    sparsity.initialize()
    assert sparsity.units.counts() == {name: sparsity.units.size(name) for name in sparsity.units.groups}
    kernels = [name for name, p in sparsity.masks.params.items() if p.ndim > 1]
    for step in range(STEPS + 1):
        counts = sparsity.masks.counts()
        assert all(counts[name] == constant.masks.counts()[name] for name in kernels)  # at each step
        if step == broken_at:
            torch.save([part.state_dict() for part in run], file)
        if step < STEPS:
            train(*run, [step])
            assert_whole(sparsity, run[2])
    assert sparsity.units.counts() == constant.units.counts() and sparsity.masks.counts() == constant.masks.counts()
    fresh = UnitsNet(1)
    resumed = (fresh, *build(fresh, **options))
    file.seek(0)
    for part, state in zip(resumed, load_weights_only(file, 'cpu')):
        part.load_state_dict(state)
    train(*resumed, range(broken_at, STEPS))
    assert_same_bits(run, resumed)


@pytest.mark.parametrize('kwargs, message', [
    (dict(start_sparsity=.1), r'needs ramp=\(begin, end\)'),
    (dict(ramp=3.), r'ramp must be \(begin, end\)'),
    (dict(ramp=(0, 4), start_sparsity=.5), 'must be 0, or below'),
    (dict(ramp=(0, 4), start_sparsity='equal'), 'moves from weights to units'),
    (dict(ramp=(0, 4), init='checkpoint'), "init='checkpoint' says none"),
    (dict(ramp=(0, 4), granularity=dict(neuron=.3, weight=.2), grow=None), 'needs a rule to grow by'),
])
def test_arguments_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(Net(), **kwargs)
