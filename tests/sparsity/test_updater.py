
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsity_helpers import OPTIMIZERS, STEPS, Net, assert_same_bits, build, loss_of, moments, train, unbroken_and_resumed
from torch import nn
from versions import needs_torch

pytestmark = pytest.mark.filterwarnings('error')
# before torch 2.4, no optimizer for float16 on a CPU
DTYPES = [torch.float32, *([torch.float16] if hasattr(torch, 'get_autocast_dtype') else []), torch.bfloat16]


@pytest.mark.slow
# 100 examples of 10 rounds: 1,000 rounds of pruning and growing
@settings(max_examples=100, deadline=None)
@given(
    shapes=st.lists(st.one_of(st.tuples(*[st.integers(2, 12)] * 2), st.tuples(*[st.integers(1, 4)] * 4)), min_size=1,
                    max_size=3),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    prune=st.sampled_from(['magnitude', 'set']),
    grow=st.sampled_from(['random', 'gradient']),
    init=st.sampled_from(['uniform', 'checkpoint']),
    dtype=st.sampled_from(DTYPES),
    prune_rate=st.floats(.005, 1),
    pre_hook=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_1000_rounds(shapes, optimizer, prune, grow, init, dtype, prune_rate, pre_hook, seed):
    rng = torch.Generator().manual_seed(seed)
    model = nn.Module()
    for i, shape in enumerate((*shapes, (30, 20))):  # the last one so that the total can always be had
        weight = torch.randn(shape, generator=rng).to(dtype)
        model.register_parameter(f'weight{i}', nn.Parameter(weight * (torch.rand(shape, generator=rng) < .5)))
    model.register_parameter('bias', nn.Parameter(torch.ones(7, dtype=dtype)))
    sparsity, optimizer = build(model, optimizer, init=init, prune=prune, grow=grow, interval=1, total_steps=11,
                                prune_rate=prune_rate, seed=seed)
    sparsity.initialize()
    masks = sparsity.masks
    counts, total = masks.counts(), masks.nonzero
    if init == 'uniform':
        assert total == round(.6 * masks.total)
    ever = {name: mask.clone() for name, mask in masks.active.items()}
    for _ in range(10):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=rng).to(dtype)
        if pre_hook:
            sparsity.before_step(optimizer)
        optimizer.step()
        before = {name: mask.clone() for name, mask in masks.active.items()}
        assert sparsity.step(optimizer)
        assert masks.counts() == counts and masks.nonzero == total
        assert model.bias.count_nonzero() == 7
        for name, mask in masks.active.items():
            weight = masks.params[name]
            pruned, grown = before[name] & ~mask, ~before[name] & mask
            wanted = min(round(sparsity.rate * counts[name]), weight.numel() - counts[name])
            # had one that was just pruned grown again, these would be fewer
            assert int(pruned.sum()) == int(grown.sum()) == wanted
            for tensor in (weight, *moments(optimizer, weight).values()):
                assert tensor[~mask].count_nonzero() == 0
                assert tensor[grown].count_nonzero() == 0
            ever[name] |= mask
            assert torch.equal(masks.ever_active[name], ever[name])


@settings(max_examples=40, deadline=None)
@given(
    broken_at=st.integers(0, STEPS),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    grow=st.sampled_from(['random', 'gradient', 'momentum', None]),
    pre_hook=st.booleans(),
)
def test_a_run_broken_at_any_step_and_resumed_equals_the_unbroken_one(broken_at, optimizer, grow, pre_hook):
    run, resumed = unbroken_and_resumed(Net, broken_at, pre_hook, optimizer, grow=grow)
    assert_same_bits(run, resumed)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('grow', ['random', 'gradient', 'momentum', None])
def test_before_step_changes_nothing_but_the_time(optimizer, grow):
    runs = []
    for pre_hook in (True, False):
        model = Net()
        runs.append((model, *build(model, optimizer, grow=grow)))
        runs[-1][1].initialize()
        train(*runs[-1], range(STEPS), pre_hook)
    for name, p in runs[0][0].named_parameters():
        assert torch.equal(p, dict(runs[1][0].named_parameters())[name])
    for name, mask in runs[0][1].masks.active.items():
        assert torch.equal(mask, runs[1][1].masks.active[name])


@needs_torch('2.0')
def test_as_hooks_of_the_optimizer():
    model, plain = Net(), Net()
    sparsity, optimizer = build(model)
    sparsity.initialize()
    optimizer.register_step_pre_hook(lambda optimizer, *_: sparsity.before_step(optimizer))
    optimizer.register_step_post_hook(lambda optimizer, *_: sparsity.step(optimizer))
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    other = (plain, *build(plain))
    other[1].initialize()
    train(*other, range(STEPS))
    assert_same_bits((model, sparsity, optimizer), other)


def test_warm_moments_are_cleared_when_sparsity_comes_late():
    model = Net()
    sparsity, optimizer = build(model, grow=None)
    loss_of(model, 0).backward()
    optimizer.step()
    sparsity.initialize()
    train(model, sparsity, optimizer, [1])
    for name, mask in sparsity.masks.active.items():
        for moment in moments(optimizer, sparsity.masks.params[name]).values():
            assert moment[~mask].count_nonzero() == 0 and moment[mask].count_nonzero() > 0


def test_the_masks_are_the_same_on_any_rank_and_leave_the_global_rng_alone():
    runs = []
    for rank in range(2):
        model = Net()
        sparsity, optimizer = build(model)
        torch.manual_seed(rank)
        state = torch.get_rng_state()
        sparsity.initialize()
        train(model, sparsity, optimizer, range(STEPS))
        assert torch.equal(torch.get_rng_state(), state)
        runs.append((model, sparsity, optimizer))
    assert_same_bits(*runs)


def test_another_seed_gives_other_masks():
    masks = []
    for seed in (0, 1):
        sparsity, _ = build(Net(), seed=seed)
        sparsity.initialize()
        masks.append(sparsity.masks.active)
    assert any(not torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_each_step_draws_anew():
    grown = []
    for step in (1, 3):
        model = Net()
        sparsity, optimizer = build(model)
        sparsity.initialize()
        sparsity.steps = step
        before = sparsity.masks.active['dw.weight'].clone()
        train(model, sparsity, optimizer, [0])
        grown.append(sparsity.masks.active['dw.weight'] & ~before)
    assert grown[0].any() and grown[1].any() and not (grown[0] & grown[1]).equal(grown[1])


def test_adaptation_takes_place_when_due():
    model = Net()
    sparsity, optimizer = build(model, interval=3, stop_at=9)
    sparsity.initialize()
    share, adapted = sparsity.masks.ever_active_share, []
    assert share == sparsity.masks.density
    for step in range(STEPS):
        before = {name: mask.clone() for name, mask in sparsity.masks.active.items()}
        train(model, sparsity, optimizer, [step])
        adapted.append(any(not torch.equal(before[name], mask) for name, mask in sparsity.masks.active.items()))
    assert [step + 1 for step in range(STEPS) if adapted[step]] == [3, 6]
    assert sparsity.masks.ever_active_share > share
    assert sparsity.rate == pytest.approx(.005)


def test_grow_none_keeps_the_masks():
    model = Net()
    sparsity, optimizer = build(model, grow=None, interval=1)
    sparsity.initialize()
    before = sparsity.masks.state_dict()
    train(model, sparsity, optimizer, range(STEPS))
    after = sparsity.masks.state_dict()
    assert all(torch.equal(before[name]['bits'], after[name]['bits']) for name in sparsity.masks.active)
    assert sparsity.masks.ever_active_share == sparsity.masks.density


@pytest.mark.parametrize('grow', ['random', 'momentum'])
def test_keep_moments(grow):
    model = Net()
    sparsity, optimizer = build(model, grow=grow, interval=1, keep_moments=True)
    sparsity.initialize()
    for step in range(4):
        before = {name: mask.clone() for name, mask in sparsity.masks.active.items()}
        train(model, sparsity, optimizer, [step])
        for name, mask in sparsity.masks.active.items():
            param, grown = sparsity.masks.params[name], mask & ~before[name]
            assert grown.any() and param[grown | ~mask].count_nonzero() == 0
            assert all(m[grown].all() and m[~mask].any() for m in moments(optimizer, param).values())


def test_momentum_growth_takes_the_largest_running_mean():
    model = Net()
    sparsity, optimizer = build(model, grow='momentum', interval=4)
    sparsity.initialize()
    train(model, sparsity, optimizer, range(3))
    before = {name: mask.clone() for name, mask in sparsity.masks.active.items()}
    train(model, sparsity, optimizer, [3])
    for name, mask in sparsity.masks.active.items():
        size = optimizer.state[sparsity.masks.params[name]]['exp_avg'].abs()
        assert size[mask & ~before[name]].min() >= size[~mask & ~before[name]].max()


def test_gradient_growth_sees_the_dense_gradient():
    model = Net()
    sparsity, optimizer = build(model, grow='gradient')
    sparsity.initialize()
    train(model, sparsity, optimizer, [0])
    before = {name: mask.clone() for name, mask in sparsity.masks.active.items()}
    train(model, sparsity, optimizer, [1])
    for name, mask in sparsity.masks.active.items():
        size = sparsity.masks.params[name].grad.abs()
        assert size[mask & ~before[name]].min() >= size[~mask & ~before[name]].max() > 0


def test_a_layer_that_the_loss_does_not_reach():
    model = Net()
    model.unused = nn.Linear(8, 8)
    sparsity, optimizer = build(model)
    sparsity.initialize()
    count = sparsity.masks.counts()['unused.weight']
    train(model, sparsity, optimizer, range(STEPS))
    assert int(model.unused.weight.count_nonzero()) <= count == sparsity.masks.counts()['unused.weight']
    sparsity, optimizer = build(model, grow='gradient')
    sparsity.initialize()
    with pytest.raises(ValueError, match=r"unused\.weight: grow='gradient' needs \.grad"):
        train(model, sparsity, optimizer, range(STEPS))


def test_frozen_layers_keep_their_weights():
    model = Net()
    model.stem.weight.requires_grad = False
    sparsity, optimizer = build(model, interval=1)
    sparsity.initialize()
    before = model.stem.weight.clone()
    train(model, sparsity, optimizer, range(STEPS))
    assert torch.equal(model.stem.weight, before) and 0 < (before == 0).sum() < before.numel()
