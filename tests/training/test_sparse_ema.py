"""The average of a model that trains sparse: the rule itself, then in the Runner beside SparsityHook."""
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.model import ExponentialMovingAverage
from runner_helpers import build, hook
from torch import nn

from slak_mm import SparseExponentialMovingAverage
from slak_mm.compat import load_weights_only
from slak_mm.sparsity import DynamicSparsity

EMA = dict(ema_type='slak_mm.SparseExponentialMovingAverage')
EVENTS = st.lists(st.sampled_from(['step', 'accumulate', 'skip']), min_size=1, max_size=25)


def make(seed=0, grow='random', **kwargs):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))
    sparsity = DynamicSparsity(model, 40, init='uniform', interval=2, grow=grow, seed=seed)
    ema = SparseExponentialMovingAverage(model, **kwargs)  # a copy from before the masks
    sparsity.initialize()
    ema.follow(sparsity, model)
    return model, sparsity, ema


def step(model, sparsity):
    """What an optimizer does: the weights drift, so that an average lags behind."""
    optimizer = torch.optim.SGD(model.parameters(), lr=.1)
    for param in model.parameters():
        param.grad = torch.randn_like(param) - 1
    sparsity.before_step(optimizer)
    optimizer.step()
    sparsity.step(optimizer)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), momentum=st.sampled_from([1e-4, .01, .3]), grow=st.sampled_from(['random', 'gradient', None]),
       events=EVENTS)
def test_the_rule(seed, momentum, grow, events):
    model, sparsity, ema = make(seed, grow, momentum=momentum)
    expected = {name: value.detach().double() for name, value in model.named_parameters()}
    for event in events:
        if event == 'step':
            step(model, sparsity)
            for name, weight in model.named_parameters():
                average = (1 - momentum) * expected[name] + momentum * weight.detach().double()
                if name in sparsity.masks.active:
                    mask = sparsity.masks.active[name]
                    average = average * mask
                    fresh = (expected[name] == 0) & mask
                    average[fresh] = weight.detach().double()[fresh]
                expected[name] = average
        before = copy.deepcopy(ema.state_dict())
        ema.update_parameters(model)
        for name, average in ema.module.named_parameters():
            torch.testing.assert_close(average.double(), expected[name], rtol=1e-5, atol=1e-7)
            if event != 'step':
                assert torch.equal(average, before[f'module.{name}'])
            if name in sparsity.masks.active:
                # zero exactly where the mask is zero, or where a weight has just grown, at zero
                assert torch.equal(average != 0, sparsity.masks.active[name] & (dict(model.named_parameters())[name] != 0))


@pytest.mark.parametrize('update_buffers', [False, True])
def test_buffers(update_buffers):
    model, sparsity, ema = make(momentum=.25, update_buffers=update_buffers)
    start = model[1].running_mean.clone()
    model(torch.randn(4, 6) + 3)
    step(model, sparsity)
    ema.update_parameters(model)
    now = model[1].running_mean
    assert torch.equal(ema.module[1].running_mean, torch.lerp(start, now, .25) if update_buffers else now)


def test_interval_counts_steps():
    model, sparsity, ema = make(momentum=.25, interval=2, grow=None)
    bias = [model[0].bias.detach().clone()]
    for _ in range(3):
        step(model, sparsity)
        bias.append(model[0].bias.detach().clone())
        ema.update_parameters(model)
        ema.update_parameters(model)  # as under accumulation
    assert torch.equal(ema.module[0].bias, torch.lerp(bias[0], bias[2], .25))


def test_alone_it_is_a_plain_average():
    model = nn.Linear(3, 2)
    ours, plain = (cls(model, momentum=.1) for cls in (SparseExponentialMovingAverage, ExponentialMovingAverage))
    for _ in range(3):
        nn.init.normal_(model.weight)
        ours.update_parameters(model)
        plain.update_parameters(model)
    assert torch.equal(ours.module.weight, plain.module.weight)


@pytest.mark.parametrize('accumulate', [1, 3])
def test_in_the_runner(tmp_path, accumulate):
    runner = build(tmp_path, hooks=[dict(interval=2, init='snip')], iters=8 * accumulate, accumulate=accumulate,
                   ema=dict(EMA, momentum=.1, update_buffers=True), save=accumulate)
    runner.train()
    average = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook').ema_model
    masks = hook(runner).sparsity.masks
    assert average.steps == 1 + 8 and masks.active
    saved = load_weights_only(tmp_path / f'iter_{8 * accumulate}.pth', 'cpu')
    for name, mask in masks.active.items():
        for weights in (average.avg_parameters[name], saved['state_dict'][name], saved['ema_state_dict'][f'module.{name}']):
            assert torch.equal(weights != 0, mask), name
    assert not torch.equal(saved['state_dict']['fc1.weight'], saved['ema_state_dict']['module.fc1.weight'])


def test_a_checkpoint_from_before_the_first_step_has_the_initial_weights(tmp_path):
    runner = build(tmp_path, iters=4, accumulate=4, ema=EMA, save=1)
    runner.train()
    saved = load_weights_only(tmp_path / 'iter_1.pth', 'cpu')
    assert torch.equal(saved['state_dict']['fc1.weight'], saved['ema_state_dict']['module.fc1.weight'])
    assert (saved['state_dict']['fc1.weight'] == 0).any()


@pytest.mark.parametrize('ema, grow, warns', [
    (dict(), 'random', True), (dict(ema_type='StochasticWeightAverage'), 'random', True),
    (dict(), None, False), (EMA, 'random', False), (None, 'random', False)])
def test_a_plain_average_beside_dynamic_sparsity_is_one_warning(tmp_path, monkeypatch, ema, grow, warns):
    lines = []
    monkeypatch.setattr('slak_mm.training.sparsity_hook.print_log', lambda line, *_: lines.append(line))
    build(tmp_path, hooks=[dict(init='uniform', grow=grow)], iters=1, ema=ema).train()
    warnings = [line for line in lines if 'WILL NOT BE SPARSE' in line]
    assert len(warnings) == warns
    if warns:
        assert '.990' in warnings[0] and "ema_type='slak_mm.SparseExponentialMovingAverage'" in warnings[0]


def test_the_leak_that_the_warning_names():
    model = nn.Linear(1, 1)
    plain = ExponentialMovingAverage(model, momentum=1e-4)
    plain.update_parameters(model)
    before = plain.module.weight.clone()
    nn.init.zeros_(model.weight)
    for _ in range(100):
        plain.update_parameters(model)
    assert plain.module.weight.item() / before.item() == pytest.approx(.990, abs=1e-4)
