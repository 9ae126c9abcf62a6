"""Masks under FSDP: those of the same model in one piece, although no process holds all the weights."""
import os

import pytest
import torch
from processes import spawn
from sparsity_helpers import OPTIMIZERS, STEPS, Net, moments
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from slak_mm.sparsity import DynamicSparsity
from slak_mm.training import sharded


def build():
    """In float64, so that the order of summation decides no ranking."""
    model = Net()
    model.norm = nn.GroupNorm(1, 6)
    return model.double()


def shard(model, **kwargs):
    return FSDP(model, **{'use_orig_params': True, 'device_id': torch.device('cpu'), **kwargs})


def loss_of(model, step):
    rng = torch.Generator().manual_seed(step)
    x, y = torch.randn(4, 2, 8, 8, generator=rng, dtype=torch.float64), torch.randint(10, (4, ), generator=rng)
    return nn.functional.cross_entropy(model(x), y)


def make_sparse(kind, model, optimizer, grow):
    sparsity = kind(model, STEPS, interval=2, grow=grow)
    sparsity.initialize(lambda: loss_of(model, STEPS), **(dict(reduce=lambda gradient: None) if kind is DynamicSparsity else {}))
    return model, sparsity, OPTIMIZERS[optimizer](model.parameters())


def train(model, sparsity, optimizer, step):
    optimizer.zero_grad()
    loss_of(model, step).backward()
    if step % 3:  # which nobody has to call
        sparsity.before_step(optimizer)
    optimizer.step()
    sparsity.step(optimizer)


def compare(whole, parts):
    """The same masks and weights; where a mask is 0, moments are."""
    state = parts[1].state_dict()
    assert state.keys() == whole[1].state_dict().keys() and state['steps'] == whole[1].steps
    for name, entry in whole[1].masks.state_dict().items():
        assert state['masks'][name]['shape'] == entry['shape'] and torch.equal(state['masks'][name]['bits'], entry['bits']), name
    for share in ('density', 'ever_active_share'):
        assert getattr(parts[1].masks, share) == getattr(whole[1].masks, share)
    held = {name: moments(parts[2], param) for name, param in parts[1].masks.params.items()}
    weights = dict(whole[0].named_parameters())
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, held)
    for name, mask in whole[1].masks.active.items():
        for kind, moment in moments(whole[2], weights[name]).items():
            gathered = torch.cat([process[name].get(kind, torch.empty(0)) for process in everyone]).view_as(moment)
            assert (gathered[~mask] == 0).all()
            torch.testing.assert_close(gathered, moment, rtol=1e-7, atol=1e-10)
    with FSDP.summon_full_params(parts[0]):
        for name, param in parts[0].named_parameters():
            torch.testing.assert_close(param, weights[name], rtol=1e-7, atol=1e-10)


def work(rank, folder, world_size, optimizer, grow, nested):
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=world_size)
    whole = make_sparse(DynamicSparsity, build(), optimizer, grow)
    model = build()
    if nested:
        model.dw = shard(model.dw)
    parts = make_sparse(sharded.ShardedSparsity, shard(model), optimizer, grow)
    assert all(param.ndim == 1 for param in parts[1].masks.params.values())  # no process holds a weight whole, even by chance
    for step in range(STEPS):
        train(*whole, step)
        train(*parts, step)
        compare(whole, parts)
    resumed = sharded.ShardedSparsity(shard(build()), STEPS, interval=2, grow=grow)
    resumed.load_state_dict(whole[1].state_dict())
    with FSDP.summon_full_params(resumed._model):
        assert all((resumed.masks.params[name][~mask] == 0).all() for name, mask in whole[1].masks.active.items())
    refuse_and_warn()
    torch.distributed.destroy_process_group()


def refuse_and_warn():
    with pytest.raises(ValueError, match='use_orig_params=True'):
        sharded.ShardedSparsity(shard(build(), use_orig_params=False), STEPS)
    model = shard(build())
    with pytest.raises(ValueError, match="grow='gradient', or DDP"):
        sharded.ShardedSparsity(model, STEPS, grow='momentum')
    lines = []
    sharded.print_log = lambda line, *_: lines.append(line)
    masks = sharded.ShardedSparsity(model, STEPS).masks
    for decay in (.05, 0.):
        sharded.warn_of_lost_decay(masks, torch.optim.AdamW([dict(params=model.parameters(), weight_decay=decay)], weight_decay=.05))
    assert len(lines) == 1 and '3 of 3 weights get NO WEIGHT DECAY' in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize('world_size, optimizer, grow, nested', [(2, 'adamw', 'random', False), (3, 'sgd', 'gradient', True)])
def test_masks_of_a_sharded_model(tmp_path, monkeypatch, world_size, optimizer, grow, nested):
    monkeypatch.setitem(os.environ, 'CUDA_VISIBLE_DEVICES', '')
    spawn(work, (str(tmp_path), world_size, optimizer, grow, nested), nprocs=world_size)
