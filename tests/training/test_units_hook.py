"""Neurons, patterns and ramps in a real Runner: resumed, averaged, skipped steps, two processes."""
import os

import pytest
import torch
from processes import spawn
from runner_helpers import Model, build, equal, hook, run, saved
from versions import needs_torch

from slak_mm.sparsity.pattern import Pattern

EMA = dict(ema_type='slak_mm.SparseExponentialMovingAverage', momentum=.1, update_buffers=True)
OPTIONS = dict(
    neuron=dict(granularity='neuron'),
    both=dict(granularity=dict(neuron=.3, weight=.2), init='erk', grow='gradient'),
    moving=dict(granularity=dict(neuron=.3, weight=.2), init='uniform', ramp=(2, .75), start_sparsity='equal'),
    pattern=dict(pattern='2:4', grow='gradient'))
SHARED = 'moving', 'pattern'


def dead(weights):
    """Which of the 16 neurons are dead: no row, so no bias and no column."""
    row, bias, column = weights['fc1.weight'] == 0, weights['fc1.bias'] == 0, weights['fc2.weight'] == 0
    assert (bias & column.all(0))[row.all(1)].all()
    return row.all(1)


@pytest.mark.slow
@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'slak_mm.CPUAmpOptimWrapper'])
@pytest.mark.parametrize('name', OPTIONS)
def test_broken_and_resumed_equals_unbroken(tmp_path, name, wrapper):
    options = dict(hooks=[dict(OPTIONS[name], interval=2)], shuffle=False, iters=9, save=1, ema=EMA, optim_wrapper=dict(type=wrapper))
    run(tmp_path / 'whole', Model(0), **options)
    whole = saved(tmp_path / 'whole', 'iter_9.pth')
    for step in (1, 2, 5, 6):
        run(tmp_path / str(step), Model(0), **options, resume=str(tmp_path / f'whole/iter_{step}.pth'))
        resumed = saved(tmp_path / str(step), 'iter_9.pth')
        assert equal(resumed['ema_state_dict'], whole['ema_state_dict']) and equal(resumed['sparsity'], whole['sparsity'])
        assert equal(resumed['state_dict'], whole['state_dict']) and equal(resumed['optimizer'], whole['optimizer'])
    average, weights = whole['state_dict'], {key[7:]: value for key, value in whole['ema_state_dict'].items() if key != 'steps'}
    moments = dict(enumerate(whole['optimizer']['state'].values()))  # in the order of the parameters: fc1, bn, fc2
    for index, layer in ((0, 'fc1'), (4, 'fc2')):
        assert weights[f'{layer}.weight'].dtype == moments[index]['exp_avg'].dtype == torch.float32
        assert all((moments[index][kind][weights[f'{layer}.weight'] == 0] == 0).all() for kind in ('exp_avg', 'exp_avg_sq'))
    if name == 'pattern':
        assert all(Pattern('2:4').holds(w[f'{layer}.weight'] != 0) for w in (average, weights) for layer in ('fc1', 'fc2'))
    else:
        assert int(dead(weights).sum()) == {'neuron': 6}.get(name, 5) and torch.equal(dead(average), dead(weights))
        assert not torch.equal(average['fc2.weight'], weights['fc2.weight'])


@needs_torch('2.4')
def test_a_step_that_grad_scaler_skips_changes_no_neuron(tmp_path):
    runner = build(tmp_path, hooks=[dict(granularity='neuron', interval=1)], iters=4, save=1, ema=EMA,
                   optim_wrapper=dict(type='ScalerWrapper', overflows=(2, )))
    runner.train()
    files = [saved(tmp_path, f'iter_{i + 1}.pth') for i in range(4)]
    assert [file['sparsity']['steps'] for file in files] == [1, 2, 2, 3]
    assert equal(files[2]['sparsity'], files[1]['sparsity']) and not equal(files[3]['sparsity'], files[2]['sparsity'])
    assert [int(dead({key[7:]: value for key, value in file['ema_state_dict'].items()}).sum()) for file in files] == [6] * 4


def test_what_the_hook_says(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.training.sparsity_hook.print_log', lambda line, *_: lines.append(line))
    runner = run(tmp_path, hooks=[dict(granularity='neuron', sparsity={'fc1': .25}, interval=2)], iters=1)
    assert lines[0] == 'SparsityHook: 12 of 16 neurons of 1 layers are alive.'
    assert hook(runner).sparsity.masks.density == .75


def work(rank, folder):
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    for name in SHARED:
        runner = build(f'{folder}/{name}', hooks=[dict(OPTIONS[name], interval=1)], iters=4, launcher='pytorch', ema=EMA,
                       cfg=dict(model_wrapper_cfg=dict(device_ids=None, broadcast_buffers=False)))
        runner.train()
        torch.save(dict(runner.model.module.named_parameters()), f'{folder}/{name}-{rank}.pth')
        torch.save(hook(runner).sparsity.state_dict(), f'{folder}/{name}-{rank}-sparsity.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_same_units(tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    spawn(work, (str(tmp_path), ), nprocs=2)
    for name in SHARED:
        for kind in ('', '-sparsity'):
            assert equal(*(torch.load(tmp_path / f'{name}-{rank}{kind}.pth', weights_only=True) for rank in range(2))), name
