"""SparsityHook in several processes: the masks and weights of a single one, and no traffic beside DDP's."""
import os

import pytest
import torch
from micro_configs import MICRO
from mmengine._strategy.deepspeed import DeepSpeedOptimWrapper
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from processes import spawn
from runner_helpers import build, equal, hook
from torch import nn
from torch.utils.data import Dataset

from slak_mm.models import SLaK
from slak_mm.training.distributed import CPUDistributedDataParallel

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


def calls_of_each_step(run):
    return [b - a for a, b in zip(run['calls'], run['calls'][1:])]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')


@pytest.mark.slow
def test_two_processes(tmp_path):
    spawn(work, (str(tmp_path), ), nprocs=2)
    results = [torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(2)]
    for name in list(RUNS)[1:]:
        ours, theirs = (result[name] for result in results)
        assert ours['order'] != theirs['order']  # other data
        assert len(ours['masks']) == 1 + STEPS
        for step, pair in enumerate(zip(ours['masks'], theirs['masks'])):
            assert equal(*pair), (name, step)
        changed = [not equal(*pair) for pair in zip(ours['masks'], ours['masks'][1:])]
        assert changed == [False, True] * (STEPS // 2) + [False]  # after steps 2, 4 and 6
        assert equal(ours['weights'], theirs['weights']) and ours['nonzero'] == theirs['nonzero'] == round(.6 * (8 * 16 + 16 * 2))
        for average in zip(ours['average'], theirs['average']):
            # batch statistics are each rank's own in mmengine
            assert equal(*({key: value for key, value in half.items() if '.bn.running' not in key} for half in average)), name
        for result in results:
            dense, sparse = calls_of_each_step(result['dense']), calls_of_each_step(result[name])
            assert sparse == dense and sum(dense) >= STEPS, name


BATCH, ITERS, SAVED = 8, 8, 3  # saved between two optimizer steps


class Images(Dataset):

    def __len__(self):
        return 3 * BATCH

    def __getitem__(self, i):
        rng = torch.Generator().manual_seed(i)
        noise = torch.randn(3, 32, 32)  # augmentation
        return torch.randn(3, 32, 32, generator=rng, dtype=torch.float64) + noise, i % 5


class Classifier(BaseModel):
    """A micro SLaK whose norms see one image each, since batch norms of several processes see less than those of one.

    In float64: the order in which gradients are summed moves no weight so far that it overtakes another in a ranking.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = SLaK(arch=MICRO['arch'], kernel_sizes=(7, 7, 5, 3), small_kernel_size=3,
                             norm_cfg=dict(type='GN', num_groups=1), layer_scale_init_value=1.)
        self.head = nn.Linear(26, 5)
        self.double()

    def forward(self, images, labels, mode='loss'):
        return dict(loss=nn.functional.cross_entropy(self.head(self.backbone(images)[0]), labels))


def train(work_dir, grow, world_size=1, **kwargs):
    """Trains sparse on ``world_size`` processes with accumulation and EMA; returns all masks after each iteration."""
    distributed = world_size > 1
    runner = Runner(
        model=Classifier(),
        work_dir=str(work_dir),
        train_dataloader=dict(batch_size=BATCH // world_size, num_workers=0, dataset=Images(),
                              collate_fn=dict(type='default_collate'), sampler=dict(type='InfiniteSampler')),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=ITERS),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3), accumulative_counts=2),
        default_hooks=dict(checkpoint=dict(type='slak_mm.CheckpointHook', interval=SAVED, by_epoch=False), logger=None,
                           exact_resume=dict(type='slak_mm.ExactResumeHook')),
        custom_hooks=[
            dict(type='slak_mm.SparsityHook', sparsity=.6, init='snip', grow=grow, interval=1),
            dict(type='EMAHook', ema_type='slak_mm.SparseExponentialMovingAverage', momentum=.1, priority='ABOVE_NORMAL')],
        randomness=dict(seed=0),
        launcher='pytorch' if distributed else 'none',
        cfg=dict(model_wrapper_cfg=dict(type=CPUDistributedDataParallel.__name__)) if distributed else None,
        experiment_name=str(work_dir),
        default_scope='mmengine',
        **kwargs)
    recorder = MaskRecorder()
    runner.register_hook(recorder)
    runner.train()
    return recorder.masks


class MaskRecorder(Hook):
    priority = 'LOWEST'

    def __init__(self):
        self.masks = []

    def after_train_iter(self, runner, *args, **kwargs):
        self.masks.append(hook(runner).sparsity.masks.state_dict())


def train_all(rank, folder, world_size):
    """Each kind of growth in one go, and resumed from what two processes saved."""
    if world_size > 1:
        os.environ['LOCAL_RANK'] = str(rank)
        torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store{world_size}', rank=rank,
                                             world_size=world_size)
    for grow in ('random', 'gradient'):
        masks = train(f'{folder}/{grow}_{world_size}', grow, world_size)
        torch.save(masks, f'{folder}/{grow}_{world_size}/{rank}.masks')
        if world_size != 2:
            train(f'{folder}/{grow}_2_to_{world_size}', grow, world_size, resume=True, load_from=f'{folder}/{grow}_2/iter_{SAVED}.pth')
    if world_size > 1:
        torch.distributed.destroy_process_group()


def assert_close(a, b, where=''):
    """Everything in two checkpoints is equal, floats up to the order of summation, but for logs and the split of the data."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {'meta', 'message_hub', 'data_position'}:
            assert_close(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b)):
            assert_close(*pair, f'{where}.{i}')
    elif torch.is_tensor(a) and a.is_floating_point():
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10, msg=lambda message: f'{where}: {message}')
    else:
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b, where


@pytest.mark.slow
def test_any_number_of_processes_equals_one(tmp_path):
    spawn(train_all, (str(tmp_path), 2), nprocs=2)
    spawn(train_all, (str(tmp_path), 4), nprocs=4)
    train_all(0, str(tmp_path), 1)
    for grow in ('random', 'gradient'):
        def load(run, file=f'iter_{ITERS}.pth', grow=grow):
            return torch.load(tmp_path / f'{grow}_{run}' / file, weights_only=True)

        single = load(1, '0.masks')
        assert len(single) == ITERS
        changed = [not equal(*pair) for pair in zip(single, single[1:])]
        assert changed == [True, False] * (ITERS // 2 - 1) + [False]  # after every step but the last
        for world_size in (2, 4):
            for rank in range(world_size):
                assert equal(load(world_size, f'{rank}.masks'), single), (grow, world_size, rank)
        for run in (2, 4, '2_to_1', '2_to_4'):
            assert_close(load(run), load(1), f'{grow}_{run}')


def test_deepspeed_is_refused(tmp_path):
    runner = build(tmp_path)
    runner.optim_wrapper = DeepSpeedOptimWrapper(torch.optim.SGD(runner.model.parameters(), .1))
    with pytest.raises(ValueError, match='DeepSpeedOptimWrapper.*use DDPStrategy or FSDPStrategy'):
        runner.call_hook('before_train')


@pytest.mark.slow
def test_ema_is_refused_where_weights_are_spread(tmp_path):
    spawn(train_sharded_with_ema, (str(tmp_path), ))


def train_sharded_with_ema(rank, folder):
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=1)
    runner = build(folder, ema=dict(ema_type='slak_mm.SparseExponentialMovingAverage'), launcher='pytorch',
                   cfg=dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel', device_id='cpu')))
    with pytest.raises(ValueError, match='EMAHook does not work under FSDP'):
        runner.train()
    torch.distributed.destroy_process_group()
