"""Transforms and data sets whose samples depend on those before them are found, and named when a run starts."""
import random

import numpy as np
import pytest
import torch
from runner_helpers import Data, build
from torch.utils.data import Dataset

from slak_mm.reliability import exact_resume_hook
from slak_mm.reliability.stateful import stateful_parts


class Cache:

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(x)
        return random.choice(self.seen)


class OwnGenerator:

    def __init__(self):
        self.rng = np.random.RandomState(0)

    def __call__(self, x):
        return x + self.rng.rand()


class SetAnew:
    """As mmcv's RandomResize: what it drew stands in an attribute, until it draws the next time."""

    def __init__(self):
        self.inner, self.lazy = Inner(), None

    def __call__(self, x):
        self.inner.scale = random.random()
        self.lazy = self.lazy or object()
        return x * self.inner.scale


class Inner:
    scale = None


class Samples(Dataset):

    def __init__(self, *transforms):
        self.pipeline = dict(transforms=list(transforms))

    def __len__(self):
        return 4

    def __getitem__(self, i):
        x = torch.rand(1) + i
        for transform in self.pipeline['transforms']:
            x = transform(x)
        return x


class Wrapper(Samples):

    def __init__(self, dataset):
        super().__init__()
        self.dataset, self.count = dataset, 0

    def __getitem__(self, i):
        self.count += 1
        return self.dataset[i]


@pytest.mark.parametrize('dataset, parts', [
    (Samples(), []), (Samples(SetAnew()), []), (Samples(SetAnew(), Cache()), ['Cache (seen)']),
    (Samples(OwnGenerator()), ['OwnGenerator (rng)']), (Wrapper(Samples(Cache())), ['Wrapper (count)', 'Cache (seen)']),
    (torch.utils.data.TensorDataset(torch.rand(3)), [])])
def test_parts(dataset, parts):
    states = random.random(), random.getstate(), torch.get_rng_state()
    assert sorted(stateful_parts(dataset)) == sorted(parts)
    assert random.getstate() == states[1] and torch.equal(torch.get_rng_state(), states[2])


def test_a_sample_that_cannot_be_read_is_left_to_the_training():

    class Broken(Samples):

        def __getitem__(self, i):
            raise OSError('gone')

    assert stateful_parts(Broken()) == []


@pytest.mark.parametrize('name', ['CachedMosaic', 'CachedMixUp'])
def test_those_of_mmdet(name):
    transforms = pytest.importorskip('mmdet.datasets.transforms')
    boxes = pytest.importorskip('mmdet.structures.bbox')

    class Boxes(Samples):

        def __getitem__(self, i):
            results = dict(img=np.full((8, 8, 3), i, np.uint8), gt_bboxes=boxes.HorizontalBoxes(torch.rand(1, 4)),
                           gt_bboxes_labels=np.zeros(1, int), gt_ignore_flags=np.zeros(1, bool))
            return self.pipeline['transforms'][0](results)

    assert stateful_parts(Boxes(getattr(transforms, name)(img_scale=(8, 8)))) == [f'{name} (results_cache)']


@pytest.mark.parametrize('dataset, warned', [(Data(), False), (Wrapper(Data()), True)])
def test_a_run_says_so(tmp_path, monkeypatch, dataset, warned):
    lines = []
    monkeypatch.setattr(exact_resume_hook, 'print_log', lambda line, *args: lines.append(line))
    dataset.pipeline = None
    loader = dict(batch_size=2, num_workers=0, dataset=dataset, collate_fn=dict(type='default_collate'),
                  sampler=dict(type='InfiniteSampler', shuffle=True))
    build(tmp_path, iters=1, train_dataloader=loader, hooks=[], default_hooks=dict(exact=dict(type='slak_mm.ExactResumeHook'))).train()
    assert [line for line in lines if 'WILL DIFFER' in line and 'Wrapper (count)' in line] == (lines if warned else [])
    assert len(lines) == warned
