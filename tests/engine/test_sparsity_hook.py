"""The hook in a real Runner; the algorithm itself is tested in tests/sparsity."""
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

IMAGES = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))


class Data(Dataset):

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, i):
        torch.rand(1)  # a pipeline that draws random numbers
        return IMAGES[i], i % 2


class Model(BaseModel):

    def __init__(self, noise=.1):
        super().__init__()
        torch.manual_seed(0)
        self.noise = noise
        self.fc1, self.bn, self.fc2 = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)
        self.order = []

    def init_weights(self):
        pass

    def forward(self, images, labels, mode='loss'):
        if self.training and torch.is_grad_enabled():
            self.order.append(images[0, 0].item())
        logits = self.fc2(self.bn(self.fc1(images + torch.rand(1) * self.noise)).relu())
        return dict(loss=nn.functional.cross_entropy(logits, labels)) if mode == 'loss' else logits


def sparsify(model):
    for layer in (model.fc1, model.fc2):
        layer.weight.data.view(-1)[::3] = 0
    return model


def build(work_dir, model=None, hooks=(dict(interval=2), ), iters=8, resume=None, accumulate=1, shuffle=True):
    return Runner(
        model=model or Model(),
        work_dir=str(work_dir),
        train_dataloader=dict(batch_size=4, num_workers=0, dataset=Data(), collate_fn=dict(type='default_collate'),
                              sampler=dict(type='InfiniteSampler', shuffle=shuffle)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2), accumulative_counts=accumulate),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=4, by_epoch=False), logger=None),
        custom_hooks=[dict(type='slak_mm.SparsityHook', **hook) for hook in hooks],
        randomness=dict(seed=0),
        load_from=resume,
        resume=resume is not None,
        experiment_name=f'test_{id(work_dir)}_{torch.randint(10**9, (1, )).item()}',
        default_scope='mmengine')


def run(*args, **kwargs):
    runner = build(*args, **kwargs)
    runner.train()
    return runner


def hook(runner):
    return next(hook for hook in runner.hooks if type(hook).__name__ == 'SparsityHook')


def zeros(model):
    return {name: (p == 0) for name, p in model.named_parameters() if p.ndim == 2}


def test_static_masks_keep_every_zero_of_the_checkpoint(tmp_path):
    model = sparsify(Model())
    before = zeros(model)
    runner = run(tmp_path, model, [dict(init='checkpoint', grow=None)], iters=20)
    saved = torch.load(tmp_path / 'iter_20.pth', weights_only=True)
    for name, zero in before.items():
        assert (zeros(runner.model)[name] == zero).all() and ((saved['state_dict'][name] == 0) == zero).all()
        moments = runner.optim_wrapper.optimizer.state[dict(runner.model.named_parameters())[name]]
        assert (moments['exp_avg'][zero] == 0).all() and (moments['exp_avg_sq'][zero] == 0).all()
    assert not torch.equal(runner.model.fc1.weight, sparsify(Model()).fc1.weight)


def test_a_dense_checkpoint_is_not_silently_dense(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.engine.sparsity_hook.print_log', lambda line, *_: lines.append(line))
    run(tmp_path, hooks=[dict(init='checkpoint', grow=None)])
    assert 'TRAINS DENSE' in lines[0] and '--pretrained' in lines[0]


@pytest.mark.parametrize('init', ['snip', 'erk', 'uniform'])
def test_counts_are_exact(tmp_path, init):
    runner = run(tmp_path, hooks=[dict(init=init, interval=2, sparsity=.4)])
    masks = hook(runner).sparsity.masks
    assert masks.nonzero == round(.6 * (8 * 16 + 16 * 2))
    for name, mask in masks.active.items():
        assert (masks.params[name][~mask] == 0).all()


def test_snip_leaves_data_order_rng_and_buffers(tmp_path):
    orders, states, norms = [], [], []
    for i, init in enumerate(('uniform', 'snip')):
        runner = build(tmp_path / str(i), hooks=[dict(init=init, grow=None, sparsity=.4)], iters=1)
        runner.model.order = []
        runner.train()
        orders.append(runner.model.order[-1])
        states.append(torch.get_rng_state())
        norms.append(runner.model.bn.num_batches_tracked.item())
    assert orders[0] == orders[1] and torch.equal(*states) and norms == [1, 1]


def test_steps_are_counted_under_accumulation(tmp_path):
    sparsity = hook(run(tmp_path, hooks=[dict(init='uniform', interval=1)], iters=8, accumulate=3)).sparsity
    assert sparsity.steps == 3 and sparsity.schedule.total_steps == 3


@pytest.mark.parametrize('grow', ['random', 'gradient', 'momentum', None])
def test_resumed_equals_unbroken(tmp_path, grow):
    # in fixed order and without noise: mmengine does not save the position in the data, nor the RNG
    options = dict(hooks=[dict(init='erk', interval=3, grow=grow)], shuffle=False)
    whole = run(tmp_path / 'whole', Model(0), **options)
    resumed = run(tmp_path / 'broken', Model(0), **options, resume=str(tmp_path / 'whole/iter_4.pth'))
    ours, theirs = (torch.load(tmp_path / name / 'iter_8.pth', weights_only=True) for name in ('whole', 'broken'))
    for name, value in theirs['state_dict'].items():
        assert torch.equal(value, ours['state_dict'][name]), name
    for i, state in theirs['optimizer']['state'].items():
        for name, value in state.items():
            assert torch.equal(value, ours['optimizer']['state'][i][name])
    for name, entry in theirs['sparsity']['masks'].items():
        bits = ours['sparsity']['masks'][name]['bits']
        assert torch.equal(entry['bits'], bits) if entry['bits'] is not None else bits is None
    assert hook(whole).sparsity.steps == hook(resumed).sparsity.steps == 8


def test_resume_without_masks_is_refused(tmp_path):
    run(tmp_path / 'dense', hooks=[])
    with pytest.raises(ValueError, match='holds no masks'):
        run(tmp_path / 'sparse', resume=str(tmp_path / 'dense/iter_8.pth'))
