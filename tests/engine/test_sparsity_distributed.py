"""SparsityHook in two processes: the same masks on both, and no traffic beside DDP's."""
import os

import pytest
import torch
from mmengine.hooks import Hook
from test_sparsity_hook import build, hook

RUNS = dict(dense=None, random=dict(grow='random'), gradient=dict(grow='gradient'), momentum=dict(grow='momentum'))
STEPS = 7


class Recorder(Hook):
    """After each iteration: all masks, and how many collective calls the process has made."""
    priority = 'LOWEST'

    def __init__(self):
        self.calls, self.masks = [], []

    def before_train(self, runner):
        # the group's own counter: it sees the calls of DDP's C++ too
        self.group = torch.distributed.distributed_c10d._get_default_group()
        self.record(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        self.record(runner)

    def record(self, runner):
        self.calls.append(self.group._get_sequence_number_for_group())
        sparsity = [h.sparsity for h in runner.hooks if type(h).__name__ == 'SparsityHook']
        self.masks.append([s.masks.state_dict() for s in sparsity])


def work(rank, folder):
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    results = {}
    for name, options in RUNS.items():
        runner = build(
            f'{folder}/{rank}', hooks=[] if options is None else [dict(options, interval=2)], iters=STEPS, launcher='pytorch',
            cfg=dict(model_wrapper_cfg=dict(device_ids=None, broadcast_buffers=False)),
            ema=options and dict(ema_type='slak_mm.SparseExponentialMovingAverage', momentum=.1))
        recorder = Recorder()
        runner.register_hook(recorder)
        runner.train()
        average = [h.ema_model.state_dict() for h in runner.hooks if type(h).__name__ == 'EMAHook']
        results[name] = dict(calls=recorder.calls, masks=recorder.masks, order=runner.model.module.order, average=average,
                             weights={name: param.detach() for name, param in runner.model.module.named_parameters()},
                             nonzero=options and hook(runner).sparsity.masks.nonzero)
    torch.save(results, f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def calls_of_each_step(run):
    return [b - a for a, b in zip(run['calls'], run['calls'][1:])]


@pytest.mark.slow
def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path), ), nprocs=2)
    results = [torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(2)]
    for name in list(RUNS)[1:]:
        ours, theirs = (result[name] for result in results)
        assert ours['order'] != theirs['order']  # other data
        assert len(ours['masks']) == 1 + STEPS
        for step, pair in enumerate(zip(ours['masks'], theirs['masks'])):
            assert same(*pair), (name, step)
        changed = [not same(*pair) for pair in zip(ours['masks'], ours['masks'][1:])]
        assert changed == [False, True] * (STEPS // 2) + [False]  # after steps 2, 4 and 6
        assert same(ours['weights'], theirs['weights']) and ours['nonzero'] == theirs['nonzero'] == round(.6 * (8 * 16 + 16 * 2))
        for average in zip(ours['average'], theirs['average'], strict=True):
            # batch statistics are each rank's own in mmengine
            assert same(*({key: value for key, value in half.items() if '.bn.running' not in key} for half in average)), name
        for result in results:
            dense, sparse = calls_of_each_step(result['dense']), calls_of_each_step(result[name])
            assert sparse == dense and sum(dense) >= STEPS, name
