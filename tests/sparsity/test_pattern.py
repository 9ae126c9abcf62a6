"""N:M patterns: exact in every group, at any time."""
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsity_helpers import OPTIMIZERS, STEPS, assert_same_bits, build, moments
from torch import nn

from slak_mm.compat import load_weights_only
from slak_mm.sparsity import DynamicSparsity
from slak_mm.sparsity.pattern import Pattern

pytestmark = pytest.mark.filterwarnings('error')
PATTERNS = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda pair: f'{pair[0]}:{sum(pair)}')


class Net(nn.Module):
    """A matrix, one with a rest of 3 columns, a 1x1 convolution, and what a pattern leaves dense."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.pw = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 11, 1)
        self.fc1, self.fc2 = nn.Linear(11, 24), nn.Linear(24, 10)

    def forward(self, x):
        return self.fc2(self.fc1(self.pw(self.conv(x).relu()).mean((2, 3))).relu())


def step(model, sparsity, optimizer, seed, pre_hook=True):
    rng = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=rng)
    if pre_hook:
        sparsity.before_step(optimizer)
    optimizer.step()
    return sparsity.step(optimizer)


def in_groups(mask, m):
    rows = mask.flatten(1)
    return [part.sum(1) for part in rows.split(m, dim=1)]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(text=PATTERNS, optimizer=st.sampled_from(list(OPTIMIZERS)), prune=st.sampled_from(['magnitude', 'set']),
       grow=st.sampled_from(['random', 'gradient', 'momentum']), prune_rate=st.floats(.005, 1), pre_hook=st.booleans(),
       seed=st.integers(0, 10**6))
def test_1000_rounds(text, optimizer, prune, grow, prune_rate, pre_hook, seed):
    n, m = map(int, text.split(':'))
    model = Net(seed)
    sparsity, optimizer = build(model, optimizer, pattern=text, prune=prune, grow=grow, interval=1, total_steps=11,
                                prune_rate=prune_rate, seed=seed)
    sparsity.initialize()
    masks = sparsity.masks
    assert list(masks.active) == ['pw.weight', 'fc1.weight', 'fc2.weight'] and (model.conv.weight != 0).all()
    for round_ in range(10):
        before = {name: mask.clone() for name, mask in masks.active.items()}
        assert step(model, sparsity, optimizer, seed + round_, pre_hook)
        for name, mask in masks.active.items():
            weight = masks.params[name]
            for part, columns in zip(in_groups(mask, m), weight.flatten(1).split(m, dim=1)):
                assert (part == min(n, columns.shape[1])).all()
            pruned, grown = before[name] & ~mask, ~before[name] & mask
            movable = sum(len(columns) for columns in weight.flatten(1).split(m, dim=1) if columns.shape[1] > n)
            assert pruned.sum() == grown.sum() == min(round(sparsity.rate * int(mask.sum())), movable)
            for tensor in (weight, *([] if grow == 'momentum' else moments(optimizer, weight).values())):
                assert tensor[~mask].count_nonzero() == 0 and tensor[grown].count_nonzero() == 0


@settings(max_examples=20, deadline=None)
@given(broken_at=st.integers(0, STEPS), grow=st.sampled_from(['random', 'gradient', 'momentum', None]), text=PATTERNS)
def test_a_resumed_run_equals_the_unbroken_one_and_complies(broken_at, grow, text):
    model, file = Net(), io.BytesIO()
    run = (model, *build(model, grow=grow, pattern=text))
    run[1].initialize()
    for i in range(STEPS + 1):
        if i == broken_at:
            torch.save([part.state_dict() for part in run], file)
        if i < STEPS:
            step(*run, i)
    model = Net(1)
    resumed = (model, *build(model, grow=grow, pattern=text))
    file.seek(0)
    for part, state in zip(resumed, load_weights_only(file, 'cpu')):
        part.load_state_dict(state)
    pattern = Pattern(text)
    assert all(pattern.holds(p != 0) for p in resumed[1].masks.params.values())
    for i in range(broken_at, STEPS):
        step(*resumed, i)
    assert_same_bits(run, resumed)


def test_2_4_of_a_file_with_40_percent_zeros_touches_as_few_weights_as_it_must():
    model = nn.Linear(400, 500, bias=False)
    torch.manual_seed(0)
    with torch.no_grad():
        model.weight *= torch.rand_like(model.weight) >= .4
    before = model.weight.detach().clone()
    sparsity = DynamicSparsity(model, 10, init='checkpoint', pattern='2:4', grow=None)
    sparsity.initialize()
    touched = (model.weight != before).sum().item() / before.numel()
    assert .15 < touched < .153  # (P(3 of 4) + 2 P(4 of 4)) / 4 = .1512 of the weights
    assert Pattern('2:4').holds(model.weight != 0)
    # each group keeps its largest
    kept = before.abs().double().view(-1, 4).sort(dim=1).values[:, 2:].sum()
    torch.testing.assert_close(model.weight.detach().abs().double().sum().float(), kept.float())


def test_the_weakest_of_a_group_goes_and_the_best_of_it_comes():
    weight = nn.Parameter(torch.tensor([[4., 0., 1., 0., 3., 2., 0., 0.]]))
    weight.grad = torch.tensor([[9., 1., 9., 2., 9., 9., 5., 4.]])
    pruned, grown = Pattern('2:4').exchange(weight, {}, weight != 0, .25, lambda w, count, active: active.nonzero().squeeze(1)[:count],
                                            'gradient', torch.Generator())
    assert pruned.tolist() == [2] and grown.tolist() == [3]


@pytest.mark.parametrize('kwargs, message', [
    (dict(pattern='4:4'), "pattern must be None or 'N:M' with 0 < N < M"),
    (dict(pattern=.5), 'pattern must be'),
    (dict(pattern='2:4', granularity='neuron'), 'compact the model'),
    (dict(pattern='2:4', ramp=(0, 4)), 'neither granularity nor ramp'),
    (dict(pattern='2:4', only=['conv']), "no matrix for pattern='2:4'"),
])
def test_arguments_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(Net(), **kwargs)
