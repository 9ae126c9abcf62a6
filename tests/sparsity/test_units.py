"""Neurons and filters: they die and grow as one, in exact numbers, alone or with weights inside."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsity_helpers import OPTIMIZERS, STEPS, assert_same_bits, build, moments, train, unbroken_and_resumed
from torch import nn
from units_helpers import MLP, Net, assert_whole

from slak_mm.models import SLaK
from slak_mm.sparsity import snip
from slak_mm.sparsity.units import filters, neurons

pytestmark = pytest.mark.filterwarnings('error')
BOTH = dict(neuron=.3, weight=.2)
ALL = dict(neuron=.3, filter=.4, weight=.2)
OPTIONS = dict(
    optimizer=st.sampled_from(list(OPTIMIZERS)), prune=st.sampled_from(['magnitude', 'set']),
    grow=st.sampled_from(['random', 'gradient']), init=st.sampled_from(['uniform', 'erk']),
    dtype=st.sampled_from(['float32', 'bfloat16']), prune_rate=st.floats(.005, 1), pre_hook=st.booleans(), seed=st.integers(0, 10**6))


# --- which units there are -------------------------------------------------------------------------

def test_a_slak_says_its_neurons_and_has_filters():
    model = SLaK(dict(depths=(1, 1, 1, 1), channels=(4, 4, 4, 4)), kernel_sizes=(7, 7, 5, 3), small_kernel_size=3)
    found = neurons(model)
    assert list(found) == [f'stages.{i}.0.pwconv1' for i in range(4)]
    assert found['stages.0.0.pwconv1'].parts == (('stages.0.0.pwconv1.weight', 0), ('stages.0.0.pwconv1.bias', 0),
                                                 ('stages.0.0.pwconv2.weight', 1))
    assert list(filters(model))[:3] == [f'stages.0.0.large_kernel.{branch}.conv' for branch in ('tall', 'wide', 'small')]


def test_neurons_of_a_residual_block_have_norms():
    found = neurons(Net())
    assert list(found) == ['block.conv1', 'block.conv2', 'mlp.pwconv1']
    assert found['block.conv1'].parts[2:] == (('block.bn1.weight', 0), ('block.bn1.bias', 0), ('block.conv2.weight', 1))


@pytest.mark.parametrize('name, kwargs, count', [
    ('ConvNeXt', dict(arch=dict(depths=[1, 1, 2, 1], channels=[8] * 4), linear_pw_conv=True), 5),
    ('ConvNeXt', dict(arch=dict(depths=[1, 1, 2, 1], channels=[8] * 4), linear_pw_conv=False), 5),
    ('SwinTransformer', dict(arch=dict(embed_dims=8, depths=[1, 2], num_heads=[1, 1]), out_indices=(1, )), 3),
    ('VisionTransformer', dict(arch=dict(embed_dims=8, num_layers=2, num_heads=1, feedforward_channels=16)), 2),
    ('ResNet', dict(depth=50, base_channels=4, stem_channels=4), 32), ('ResNet', dict(depth=18, base_channels=4, stem_channels=4), 8),
])
def test_the_table_knows_the_models_of_mmpretrain(name, kwargs, count):
    backbones = pytest.importorskip('mmpretrain.models.backbones')
    assert len(neurons(getattr(backbones, name)(**kwargs))) == count


# --- the invariants --------------------------------------------------------------------------------

@pytest.mark.slow
# 100 examples of 10 rounds: 1,000 rounds of each granularity
@pytest.mark.parametrize('granularity', ['neuron', 'filter'])
@settings(max_examples=100, deadline=None)
@given(**OPTIONS)
def test_1000_rounds(granularity, **drawn):
    rounds(granularity, **drawn)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(granularity=st.sampled_from([BOTH, ALL]), **OPTIONS)
def test_rounds_of_several_granularities(granularity, **drawn):
    rounds(granularity, **drawn)


def rounds(granularity, optimizer, prune, grow, init, dtype, prune_rate, pre_hook, seed):
    rng, model = torch.Generator().manual_seed(seed), Net(seed).to(getattr(torch, dtype))
    sparsity, optimizer = build(model, optimizer, granularity=granularity, prune=prune, grow=grow, init=init, interval=1,
                                total_steps=11, prune_rate=prune_rate, seed=seed)
    sparsity.initialize()
    masks, units = sparsity.masks, sparsity.units
    counts, alive = masks.counts(), units.counts()
    for kind in {group.kind for group in units.groups.values()}:
        own = [name for name, group in units.groups.items() if group.kind == kind]
        share = granularity[kind] if isinstance(granularity, dict) else .4
        assert sum(alive[name] for name in own) == round((1 - share) * sum(map(units.size, own)))
    if 'weight' in granularity:
        kernels = [name for name, p in masks.params.items() if p.ndim > 1]
        live = sum(units.shape(name, masks.params[name].shape).numel() for name in kernels)
        assert sum(counts[name] for name in kernels) == round(.8 * live)
    for _ in range(10):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=rng).to(p.dtype)
        if pre_hook:
            sparsity.before_step(optimizer)
        optimizer.step()
        before = {name: mask.clone() for name, mask in units.alive.items()}
        assert sparsity.step(optimizer)
        assert masks.counts() == counts and units.counts() == alive
        assert_whole(sparsity, optimizer)
        for name, mask in units.alive.items():
            pruned, grown = before[name] & ~mask, ~before[name] & mask
            assert int(pruned.sum()) == int(grown.sum()) == min(round(sparsity.rate * alive[name]), len(mask) - alive[name])
            for param, dim in units.groups[name].parts:
                weight, places = masks.params[param], grown.nonzero().squeeze(1)
                for moment in moments(optimizer, weight).values():
                    assert moment.index_select(dim, places).count_nonzero() == 0
                if dim or units.groups[name].kind == 'filter':
                    weight = weight[before['block.conv2']] if param == 'block.conv2.weight' else weight  # its new rows start at random
                    assert weight.index_select(dim, places).count_nonzero() == 0


@pytest.mark.parametrize('granularity', ['neuron', BOTH], ids=str)
def test_a_neuron_that_grows_changes_no_output_and_gets_gradients(granularity):
    model = MLP()
    sparsity, optimizer = build(model, granularity=granularity, interval=1, prune_rate=.3)
    sparsity.initialize()
    units, before, x = sparsity.units, sparsity.units.alive['pwconv1'].clone(), torch.randn(2, 6, 4, 4)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with torch.no_grad():  # the smallest ones, whose death changes the output, are nothing here
        weakest = before.nonzero().squeeze(1)[:round(.3 * int(before.sum()))]
        model.pwconv1.weight[weakest] = model.pwconv1.bias[weakest] = model.pwconv2.weight[:, weakest] = 0
    expected = model(x)
    sparsity.schedule = type(sparsity.schedule)(STEPS, 1, .3, .3)
    optimizer.param_groups[0].update(lr=0.)
    optimizer.step()
    sparsity.masks.exchange = lambda *_: None  # of single weights
    assert sparsity.step(optimizer)
    grown = units.alive['pwconv1'] & ~before
    assert grown.sum() == round(.3 * int(before.sum()))
    torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    assert (model.pwconv2.weight.grad[:, grown].abs().sum(0) > 0).all() and (model.pwconv1.weight[grown] != 0).any(1).all()


@settings(max_examples=25, deadline=None)
@given(broken_at=st.integers(0, STEPS), optimizer=st.sampled_from(list(OPTIMIZERS)),
       grow=st.sampled_from(['random', 'gradient', None]), granularity=st.sampled_from(['neuron', 'filter', BOTH, ALL]),
       pre_hook=st.booleans())
def test_a_run_broken_at_any_step_and_resumed_equals_the_unbroken_one(broken_at, optimizer, grow, granularity, pre_hook):
    run, resumed = unbroken_and_resumed(Net, broken_at, pre_hook, optimizer, grow=grow, granularity=granularity)
    assert_same_bits(run, resumed)
    assert all(torch.equal(alive, resumed[1].units.alive[name]) for name, alive in run[1].units.alive.items())


# --- how many --------------------------------------------------------------------------------------

def test_snip_gives_neurons_the_densities_of_their_weights():
    model = Net()
    sparsity, _ = build(model, init='snip', granularity='neuron')
    gradients = {name: torch.rand_like(p) * (100 if name.startswith('mlp') else 1) for name, p in model.named_parameters()}
    sparsity.initialize(gradients)
    parts = {name: [param for param, _ in group.parts if model.get_parameter(param).ndim > 1]
             for name, group in sparsity.units.groups.items()}
    counts = snip({param: (gradients[param] * model.get_parameter(param)).abs() for own in parts.values() for param in own}, .6)
    shares = {name: sum(counts[param] for param in own) / sum(model.get_parameter(param).numel() for param in own)
              for name, own in parts.items()}
    kept, sizes = sparsity.units.counts(), {name: sparsity.units.size(name) for name in parts}
    assert sparsity.needs_gradients and sum(kept.values()) == round(.6 * 36) and shares['mlp.pwconv1'] > 1.2 * shares['block.conv2']
    assert kept['mlp.pwconv1'] / sizes['mlp.pwconv1'] > kept['block.conv2'] / sizes['block.conv2'] > 0 and kept['block.conv1'] > 0


def test_targets_of_ones_own():
    sparsity, _ = build(Net(), init='snip', granularity='neuron', sparsity={'mlp.*': .6, 'block.conv2*': .2})
    assert not sparsity.needs_gradients
    sparsity.initialize()
    assert sparsity.units.counts() == {'block.conv1': 7, 'block.conv2': 7, 'mlp.pwconv1': 8}
    sparsity, _ = build(Net(), granularity=dict(neuron={'pwconv1': .5}, weight={'mlp.*.weight': .25}))
    sparsity.initialize()
    assert sparsity.masks.counts() == {**{name: p.numel() for name, p in sparsity.masks.params.items()},
                                       'mlp.pwconv1.weight': 45, 'mlp.pwconv1.bias': 10, 'mlp.pwconv2.weight': 45}
    with pytest.raises(ValueError, match=r"nothing matches \['stages\.\*'\]"):
        build(Net(), sparsity={'stages.*': .6})[0].initialize()


def test_a_checkpoint_says_which_units_are_dead():
    model = Net()
    sparsity, optimizer = build(model, granularity=BOTH)
    sparsity.initialize()
    train(model, sparsity, optimizer, range(3))  # by now no weight that grew is zero
    other = Net(1)
    other.load_state_dict(model.state_dict())
    again, _ = build(other, init='checkpoint', grow=None, granularity=dict(neuron=0, weight=0))
    again.initialize()
    for name, alive in sparsity.units.alive.items():
        assert torch.equal(alive, again.units.alive[name])
    assert torch.equal(other.mlp.pwconv1.weight, model.mlp.pwconv1.weight)


def test_frozen_neurons(caplog):
    model = Net()
    model.mlp.pwconv2.weight.requires_grad = False
    sparsity, optimizer = build(model, granularity='neuron', interval=1)
    sparsity.initialize()
    before = sparsity.units.alive['mlp.pwconv1'].clone()
    train(model, sparsity, optimizer, range(4))
    assert torch.equal(sparsity.units.alive['mlp.pwconv1'], before) and not before.all()
    snip, _ = build(model, granularity='neuron', init='snip')
    assert list(snip.units.groups) == ['block.conv1', 'block.conv2'] and "do not count: ['mlp.pwconv1']" in caplog.text


# --- what is refused -------------------------------------------------------------------------------

@pytest.mark.parametrize('kwargs, message', [
    (dict(granularity='row'), "granularity='row' is unknown; it can be 'weight', 'neuron', 'filter', or a dict"),
    (dict(granularity={}), 'is unknown'),
    (dict(granularity=dict(neuron=1.)), r"granularity\['neuron'\] must be in \[0, 1\)"),
    (dict(granularity='neuron', only=['dw']), r"no neuron to mask: only=\['dw'\]"),
    (dict(sparsity={}), 'sparsity must be a number or a dict of patterns'),
])
def test_arguments_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(Net(), **kwargs)


def test_a_model_without_neurons():
    with pytest.raises(ValueError, match='no layers of the model are known to have any'):
        build(nn.Linear(3, 4), granularity='neuron')


def test_a_state_of_another_granularity_is_refused():
    def saved(**kwargs):
        sparsity, _ = build(Net(), **kwargs)
        sparsity.initialize()
        return sparsity.state_dict()

    assert set(saved()) == {'steps', 'config', 'masks'} and 'granularity' not in saved()['config']
    with pytest.raises(ValueError, match="granularity='weight', not 'neuron'|units"):
        build(Net(), granularity='neuron')[0].load_state_dict(saved())
    with pytest.raises(ValueError, match="granularity='neuron', not 'weight'"):
        build(Net())[0].load_state_dict(saved(granularity='neuron'))
    state = saved(granularity='neuron')
    state['units']['mlp.pwconv1'] = torch.zeros(9, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"the bits of these units are of another size: \['mlp\.pwconv1'\]"):
        build(Net(), granularity='neuron')[0].load_state_dict(state)
