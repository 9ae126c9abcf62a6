"""How the masks of a DynamicSparsity begin, and how they are saved."""
import logging

import pytest
import torch
from sparsity_helpers import STEPS, Net, build, loss_of, train
from torch import nn

from slak_mm.sparsity import DynamicSparsity, erk

pytestmark = pytest.mark.filterwarnings('error')


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
    assert "they keep 0.20 of their weights, the share of all: ['dw.weight']" in caplog.text
    caplog.clear()
    DynamicSparsity(model, STEPS, sparsity=.995, init='uniform').initialize()
    assert "leaves no weight in [" in caplog.text


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


def test_snip_leaves_frozen_layers_dense(caplog):
    model = Net()
    model.dw.weight.requires_grad = False
    sparsity = DynamicSparsity(model, STEPS, sparsity=.5)
    assert "frozen layers stay dense and do not count: ['dw.weight']" in caplog.text
    sparsity.initialize({name: torch.rand_like(p) for name, p in model.named_parameters()})
    assert 'dw.weight' not in sparsity.masks.params and (model.dw.weight != 0).all()
    assert sparsity.masks.nonzero == round(.5 * (model.stem.weight.numel() + model.fc.weight.numel()))
