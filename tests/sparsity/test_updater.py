import io
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slak_mm.sparsity import DynamicSparsity, erk

pytestmark = pytest.mark.filterwarnings('error')
STEPS = 12


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.dw = nn.Conv2d(6, 6, (7, 5), padding=(3, 2), groups=6, bias=False)
        self.fc = nn.Linear(6, 10)

    def forward(self, x):
        return self.fc(self.dw(self.norm(self.stem(x)).relu()).mean((2, 3)))


OPTIMIZERS = {
    # eps: the default 1e-8 is 0 in fp16
    'adamw': lambda params: torch.optim.AdamW(params, lr=.01, eps=1e-6, weight_decay=.05),
    'amsgrad': lambda params: torch.optim.AdamW(params, lr=.01, eps=1e-6, amsgrad=True),
    'sgd': lambda params: torch.optim.SGD(params, lr=.05, momentum=.9, weight_decay=1e-4),
}


def loss_of(model, step):
    rng = torch.Generator().manual_seed(step)
    x, y = torch.randn(4, 2, 8, 8, generator=rng), torch.randint(10, (4,), generator=rng)
    return nn.functional.cross_entropy(model(x), y)


def build(model, optimizer='adamw', **kwargs):
    sparsity = DynamicSparsity(model, **{'total_steps': STEPS, 'interval': 2, 'init': 'uniform', **kwargs})
    return sparsity, OPTIMIZERS[optimizer](model.parameters())


def train(model, sparsity, optimizer, steps, pre_hook=True):
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if pre_hook:
            sparsity.before_step(optimizer)
        optimizer.step()
        sparsity.step(optimizer)


def moments(optimizer, param):
    return {k: v for k, v in optimizer.state.get(param, {}).items() if torch.is_tensor(v) and v.shape == param.shape}


def everything(model, sparsity, optimizer):
    """All bits of a run, by name."""
    held = dict(model.state_dict())
    for name, param in model.named_parameters():
        held.update({f'{key}/{name}': value for key, value in optimizer.state[param].items()})
    for key in ('active', 'ever_active'):
        held.update({f'{key}/{name}': mask for name, mask in getattr(sparsity.masks, key).items()})
    return {name: value.contiguous().flatten().view(torch.uint8) if value.ndim else value.reshape(1).view(torch.uint8)
            for name, value in held.items()}


def assert_same_bits(a, b):
    a, b = everything(*a), everything(*b)
    assert list(a) == list(b)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# 100 examples of 10 rounds: 1,000 rounds of pruning and growing
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    shapes=st.lists(st.one_of(st.tuples(*[st.integers(2, 12)] * 2), st.tuples(*[st.integers(1, 4)] * 4)), min_size=1,
                    max_size=3),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    prune=st.sampled_from(['magnitude', 'set']),
    grow=st.sampled_from(['random', 'gradient']),
    init=st.sampled_from(['uniform', 'checkpoint']),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    prune_rate=st.floats(.005, 1),
    pre_hook=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_1000_rounds(shapes, optimizer, prune, grow, init, dtype, prune_rate, pre_hook, seed):
    rng = torch.Generator().manual_seed(seed)
    model = nn.Module()
    for i, shape in enumerate((*shapes, (30, 20))):  # the last one so that the total can always be had
        weight = torch.randn(shape, generator=rng).to(dtype)
        model.register_parameter(f'w{i}', nn.Parameter(weight * (torch.rand(shape, generator=rng) < .5)))
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


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    broken_at=st.integers(0, STEPS),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    grow=st.sampled_from(['random', 'gradient', 'momentum', None]),
    pre_hook=st.booleans(),
)
def test_a_run_broken_at_any_step_and_resumed_equals_the_unbroken_one(broken_at, optimizer, grow, pre_hook):
    whole = Net()
    run = (whole, *build(whole, optimizer, grow=grow))
    run[1].initialize()
    file = io.BytesIO()
    for step in range(STEPS + 1):
        if step == broken_at:
            torch.save([part.state_dict() for part in run], file)
        if step < STEPS:
            train(*run, [step], pre_hook)

    fresh = Net(seed=1)
    resumed = (fresh, *build(fresh, optimizer, grow=grow))
    file.seek(0)
    for part, state in zip(resumed, torch.load(file, weights_only=True)):
        part.load_state_dict(state)
    assert resumed[1].steps == broken_at
    train(*resumed, range(broken_at, STEPS), pre_hook)
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


# --- the first masks -------------------------------------------------------------------------------

@pytest.mark.parametrize('init', ['snip', 'erk', 'uniform'])
@pytest.mark.parametrize('sparsity', [.2, .4, .9])
def test_initialize_masks_the_weights_exactly(init, sparsity):
    model = Net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    updater, _ = build(model, init=init, sparsity=sparsity)
    updater.initialize(lambda: loss_of(model, 0))
    masks = updater.masks
    nonzero = sum(int(p.count_nonzero()) for p in masks.params.values())
    assert nonzero == masks.nonzero == round((1 - sparsity) * masks.total)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name] * masks.active[name] if name in masks.active else before[name])


def test_erk_gives_the_counts():
    sparsity, _ = build(Net(), init='erk')
    sparsity.initialize()
    assert sparsity.masks.counts() == erk({name: p.shape for name, p in sparsity.masks.params.items()}, .6)


def test_checkpoint_takes_the_zeros_of_the_weights():
    model = Net()
    with torch.no_grad():
        model.fc.weight[::2] = 0
    before = model.fc.weight.clone()
    sparsity, optimizer = build(model, init='checkpoint', grow=None)
    sparsity.initialize()
    assert list(sparsity.masks.active) == ['fc.weight'] and torch.equal(model.fc.weight, before)
    train(model, sparsity, optimizer, range(3))
    assert torch.equal(model.fc.weight == 0, before == 0)


def test_what_the_masks_cannot_do_is_said(caplog):
    sparsity, _ = build(Net(), init='checkpoint')
    sparsity.initialize()
    assert 'all stay dense' in caplog.text
    model = Net()
    sparsity, _ = build(model, init='snip')
    gradients = {name: torch.zeros_like(p) if name == 'dw.weight' else torch.ones_like(p)
                 for name, p in model.named_parameters()}
    caplog.clear()
    sparsity = DynamicSparsity(model, STEPS, sparsity=.8)
    sparsity.initialize(gradients)
    assert "leaves no weight in ['dw.weight']" in caplog.text


def test_snip_without_gradients_is_an_error():
    with pytest.raises(ValueError, match="init='snip' needs the gradients"):
        build(Net(), init='snip')[0].initialize()


@pytest.mark.parametrize('kwargs, message', [
    ({'init': 'random'}, "init='random' is unknown; it can be 'snip', 'erk', 'uniform', 'checkpoint'"),
    ({'prune': 'SET'}, "prune='SET' is unknown; it can be 'magnitude', 'set'"),
    ({'grow': 'rigl'}, "grow='rigl' is unknown; it can be 'random', 'gradient', 'momentum', None"),
    ({'sparsity': 1.}, r'sparsity must be in \[0, 1\)'),
    ({'interval': 0}, 'interval must be'),
    ({'exclude': ['nothing']}, 'nothing matches'),
    ({'grow': 'momentum', 'keep_moments': False}, 'needs keep_moments=True'),
])
def test_arguments_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(Net(), **kwargs)


# --- the state -------------------------------------------------------------------------------------

def test_nothing_goes_without_masks():
    sparsity, optimizer = build(Net())
    for call in (lambda: sparsity.step(optimizer), lambda: sparsity.before_step(optimizer), sparsity.state_dict):
        with pytest.raises(RuntimeError, match='no masks yet'):
            call()


def saved(**kwargs):
    sparsity, _ = build(Net(), **kwargs)
    sparsity.initialize()
    return sparsity.state_dict()


@pytest.mark.parametrize('key', ['steps', 'config', 'masks'])
def test_load_refuses_a_state_with_a_part_missing(key):
    state = saved()
    del state[key]
    with pytest.raises(ValueError, match=rf"\['{key}'\] missing"):
        build(Net())[0].load_state_dict(state)


def test_load_refuses_masks_of_another_shape():
    model = Net()
    model.fc = nn.Linear(6, 11)
    sparsity, _ = build(model)
    with pytest.raises(ValueError, match=r'fc\.weight is \[10, 6\] instead of \[11, 6\]'):
        sparsity.load_state_dict(saved())
    with pytest.raises(RuntimeError, match='no masks yet'):
        sparsity.state_dict()


@pytest.mark.parametrize('kwargs, message', [
    ({'sparsity': .5}, r'sparsity=0\.4, not 0\.5'),
    ({'only': ['fc']}, r"only=\[\], not \['fc'\]"),
    ({'exclude': ('fc',)}, r"exclude=\[\], not \['fc'\]"),
])
def test_load_refuses_another_choice_of_masks(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(Net(), **kwargs)[0].load_state_dict(saved())


def test_load_tells_what_else_has_changed(caplog):
    caplog.set_level(logging.WARNING)
    build(Net(), exclude=('stem',))[0].load_state_dict(saved(exclude=['stem']))
    assert not caplog.records
    build(Net(), prune='set', interval=3)[0].load_state_dict(saved())
    assert "prune='magnitude' -> 'set', interval=2 -> 3" in caplog.text


def test_load_applies_the_masks():
    model = Net()
    sparsity, _ = build(model)
    sparsity.load_state_dict(saved())
    assert sum(int(p.count_nonzero()) for p in sparsity.masks.params.values()) == round(.6 * sparsity.masks.total)
