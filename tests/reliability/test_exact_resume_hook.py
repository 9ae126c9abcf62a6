"""A run that is broken off and resumed sees the same data and draws the same numbers as one that is not."""
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner
from runner_helpers import Data, Model, build, same_training, saved
from torch.utils.data import BatchSampler

from slak_mm.reliability.exact_resume_hook import _NumberedBatches, _SeededDataset, seed_everything

HOOKS = dict(checkpoint=dict(type='slak_mm.CheckpointHook', interval=1, by_epoch=False),
             exact_resume=dict(type='slak_mm.ExactResumeHook'))


class Augmented(Data):
    """Random numbers of all three generators in each sample."""

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return image + torch.rand(1) + random.random() + float(np.random.rand()), label


class Recorder(Model):
    """Keeps the images that it trains on, and is noisy by random numbers of all three generators."""

    def __init__(self):
        super().__init__()
        self.images = []

    def forward(self, images, labels, mode='loss'):
        if torch.is_grad_enabled() and self.training:
            self.images.append(images.clone())
        return super().forward(images + .1 * float(np.random.rand()) + .1 * random.random(), labels, mode)


def options(loop, sampler, workers, batch=4, **loader):
    length = dict(max_epochs=2) if loop == 'EpochBasedTrainLoop' else dict(max_iters=12)
    return dict(
        hooks=[dict(interval=2, init='erk')],
        default_hooks=HOOKS,
        train_cfg=dict(type=loop, **length),
        train_dataloader=dict(batch_size=batch, num_workers=workers, dataset=Augmented(), sampler=dict(type=sampler),
                              collate_fn=dict(type='default_collate'), **loader))


def train(folder, **kwargs) -> Runner:
    runner = build(folder, Recorder(), **kwargs)
    runner.train()
    return runner


LOOPS = [('IterBasedTrainLoop', 'InfiniteSampler'), ('IterBasedTrainLoop', 'DefaultSampler'),
         ('EpochBasedTrainLoop', 'DefaultSampler')]


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('loop, sampler', LOOPS)
def test_resumed_equals_unbroken(tmp_path, monkeypatch, loaders, loop, sampler, workers):
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)  # 2 s for each epoch of a finite sampler
    a = train(tmp_path / 'a', **options(loop, sampler, workers))
    images = a.model.images
    assert len(images) == 12 and len(torch.cat(images).unique(dim=0)) == 48  # 2 epochs of 24, augmented differently
    for stop in (1, 4, 6, 7):
        b = train(tmp_path / f'b{stop}', resume=str(tmp_path / f'a/iter_{stop}.pth'), **options(loop, sampler, workers))
        loaders.close()
        assert b.iter == 12 and len(b.model.images) == 12 - stop
        assert all(map(torch.equal, b.model.images, images[stop:]))
        assert same_training(saved(tmp_path / 'a', 'iter_12.pth'), saved(tmp_path / f'b{stop}', 'iter_12.pth'))


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    runs = [train(tmp_path / str(workers), **options('IterBasedTrainLoop', 'InfiniteSampler', workers, **loader)).model.images
            for workers, loader in [(0, {}), (1, {}), (3, dict(persistent_workers=True))]]
    assert all(map(torch.equal, runs[0], runs[1])) and all(map(torch.equal, runs[0], runs[2]))


def test_past_data_is_not_loaded(tmp_path, monkeypatch):
    train(tmp_path, **options('IterBasedTrainLoop', 'InfiniteSampler', 0))
    loads = []
    load = Augmented.__getitem__
    monkeypatch.setattr(Augmented, '__getitem__', lambda self, i: loads.append(i) or load(self, i))
    train(tmp_path / 'b', resume=str(tmp_path / 'iter_10.pth'), **options('IterBasedTrainLoop', 'InfiniteSampler', 0))
    assert len(loads) == 2 * 4 + 4  # four, to see whether the data set keeps what it has seen


def test_the_seed_is_resumed(tmp_path):
    def start(folder, **kwargs):  # the Runner writes into `randomness`
        np.random.seed()  # else this process would draw the same one again
        return train(tmp_path / folder, **options('IterBasedTrainLoop', 'InfiniteSampler', 0), randomness=dict(seed=None), **kwargs)

    a = start('a')
    b = start('b', resume=str(tmp_path / 'a/iter_5.pth'))
    c = start('c')
    assert all(map(torch.equal, b.model.images, a.model.images[5:]))
    assert a.seed == b.seed != c.seed and not torch.equal(a.model.images[0], c.model.images[0])


def test_another_batch_is_one_warning(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.reliability.exact_resume_hook.print_log', lambda line, *_: lines.append(line))
    a = train(tmp_path / 'a', **options('IterBasedTrainLoop', 'InfiniteSampler', 0)).model.images
    assert not lines
    b = train(tmp_path / 'b', resume=str(tmp_path / 'a/iter_5.pth'), **options('IterBasedTrainLoop', 'InfiniteSampler', 0, batch=8))
    assert torch.equal(torch.cat(b.model.images)[4:28], torch.cat(a)[20:44])  # 5 x 4 images are past, 16 of them whole batches
    line, = lines
    assert '(1 processes x 8), and had 4 (1 x 4)' in line and '4 images are seen twice' in line and 'batch_size=4' in line


def test_a_file_without_position_is_one_warning(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.reliability.exact_resume_hook.print_log', lambda line, *_: lines.append(line))
    a = train(tmp_path / 'a', **options('IterBasedTrainLoop', 'InfiniteSampler', 0)).model.images
    checkpoint = saved(tmp_path / 'a', 'iter_5.pth')
    del checkpoint['data_position']
    torch.save(checkpoint, tmp_path / 'without.pth')
    b = train(tmp_path / 'b', resume=str(tmp_path / 'without.pth'), **options('IterBasedTrainLoop', 'InfiniteSampler', 0))
    assert all(map(torch.equal, b.model.images, a[5:])) and len(lines) == 1 and 'saved without this hook' in lines[0]


@settings(deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 7), skip=st.integers(0, 12), seed=st.integers(0, 3))
def test_numbered_batches(size, batch, skip, seed):
    def stream(rank, world_size, batch, skip):
        sampler = InfiniteSampler(range(size), seed=seed)
        sampler.rank, sampler.world_size = rank, world_size
        sampler.indices = sampler._indices_of_rank()
        batches = iter(_NumberedBatches(BatchSampler(sampler, batch, drop_last=True), rank, world_size, skip))
        return [draw for _ in range(6) for draw in next(batches)]

    alone = stream(0, 1, 2 * batch, skip)
    assert [number for _, _, number in alone] == list(range(2 * batch * skip, 2 * batch * (skip + 6)))
    assert stream(0, 1, 2 * batch, 0)[2 * batch * min(skip, 6):] == alone[:2 * batch * max(6 - skip, 0)]
    assert sorted(stream(0, 2, batch, skip) + stream(1, 2, batch, skip), key=lambda draw: draw[2]) == alone  # two processes


def test_epochs_are_numbered():
    sampler = DefaultSampler(range(5), seed=0)
    batches = _NumberedBatches(BatchSampler(sampler, 2, drop_last=False), 0, 1, 1)
    assert len(batches) == 3 and [len(batch) for batch in batches] == [2, 1]  # one was skipped
    sampler.set_epoch(4)
    assert [draw[1:] for batch in batches for draw in batch] == [(4, n) for n in range(5)]


def test_seeded_dataset_is_the_dataset():
    data = Augmented()
    seeded = _SeededDataset(data, seed=0)
    assert torch.equal(seeded[3, 0, 7][0], seeded[3, 0, 7][0])
    assert not torch.equal(seeded[3, 0, 7][0], seeded[3, 0, 8][0]) and not torch.equal(seeded[3, 0, 7][0], seeded[3, 1, 7][0])
    assert len(seeded) == 24 and seeded[3][1] == 1
    seeded.pipeline = 'new'  # as mmdet's PipelineSwitchHook
    assert data.pipeline == 'new' and seeded.pipeline == 'new' and not hasattr(seeded, 'missing')


def test_seed_everything():
    def draw(*key):
        seed_everything(*key)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert draw(1, 2, 3) == draw(1, 2, 3)
    first = [draw(*key) for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2**31, 0, 0)]]
    assert all(len(set(column)) == 5 for column in zip(*first))
