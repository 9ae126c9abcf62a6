import logging
import random
from typing import Iterator, List, Tuple, Union

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..models.wrappers import unwrap
from ..registry import HOOKS, register
from .stateful import stateful_parts, stateful_preprocessor

CHECKPOINT_KEY = 'data_position'
_SAMPLE, _ITERATION = range(2)
Draw = Tuple[int, int, int]  # index in the dataset, epoch, number of the sample in the epoch


def seed_everything(*key: int) -> None:
    """Seeds Python, NumPy and torch on every device. Keys that differ anywhere give independent streams.

    Args:
        key (int): Numbers that are not negative.
    """
    words = np.random.SeedSequence(key).generate_state(6)
    random.seed(words.tobytes())
    np.random.seed(words[:4])
    torch.manual_seed(int(words[4:].view(np.int64)[0]))


@register(HOOKS)
class ExactResumeHook(Hook):
    """A run that is broken off and resumed equals the run that was not: ``default_hooks=dict(exact_resume=dict(type=...))``.

    mmengine saves neither the states of random generators, of which each worker of a DataLoader has its own, nor where the data
    stopped, and gets past old data by loading it all again. Here no generator has a state that outlives an iteration:

    - What is random in the n-th sample of an epoch (augmentation) is a function of seed, epoch and n, counted over all processes: the
      same with any number of workers and processes.
    - What is random in an iteration (drop path, mixup) is a function of seed, iteration and rank.
    - The position in the data is part of every checkpoint, under 'data_position'. Resumed, the data goes on at the next sample, also
      in the middle of an epoch and with another number of processes, and without loading what is past.

    "Equals" means bit by bit on a CPU; a GPU needs ``randomness=dict(deterministic=True)`` for it. It works with mmengine's samplers
    and all that have ``seed`` and ``set_epoch`` as they do; there is a warning for others, and for transforms that keep samples which
    they have seen, as mmdet's CachedMosaic: those are not saved, and each worker has its own.
    """

    priority = 'VERY_HIGH'

    _position = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keeps the position until training begins."""
        if runner._resume:
            self._position = checkpoint.get(CHECKPOINT_KEY, {})

    def before_train(self, runner) -> None:
        """Replaces the loader by one of numbered samples, which begins at the position."""
        loop, loader = runner.train_loop, runner.train_dataloader
        self._rank, self._world_size = get_dist_info()
        self._seed = runner.seed - (self._rank if (getattr(runner, '_randomness_cfg', None) or {}).get('diff_rank_seed') else 0)
        sampler = getattr(loader.batch_sampler, 'sampler', None)
        self._batch_size = getattr(loader.batch_sampler, 'batch_size', 1)
        self._endless, self._by_epoch = isinstance(sampler, InfiniteSampler), isinstance(loop, EpochBasedTrainLoop)
        if not self._endless and not (hasattr(sampler, 'seed') and hasattr(sampler, 'epoch')):
            print_log(f'ExactResumeHook: the order of {type(sampler).__name__} cannot be restored, and a resumed run will see other '
                      "data. Use sampler=dict(type='DefaultSampler') or 'InfiniteSampler'.", 'current', logging.WARNING)
        self._warn_of_state(runner, loader.dataset)
        self._find_position(runner, sampler)
        if isinstance(sampler, InfiniteSampler):
            sampler.indices = sampler._indices_of_rank()  # workers may have drawn from it already
        loop.dataloader = DataLoader(
            _SeededDataset(loader.dataset, self._seed),
            batch_sampler=_NumberedBatches(loader.batch_sampler, self._rank, self._world_size, self._done),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            persistent_workers=loader.persistent_workers,
            **(dict(prefetch_factor=loader.prefetch_factor) if loader.num_workers else {}))
        if not self._by_epoch:
            # to get past old data mmengine asks for all of it; 0.10.0 forgets to, and the forks call skip_iter
            asks = 'range' in type(loop).run.__code__.co_names
            loop.dataloader_iterator = _ResumedIterator(loop.dataloader, self._epoch, loop.iter if asks else 0)

    def _warn_of_state(self, runner, dataset) -> None:
        if self._rank > 0:
            return
        keep = stateful_parts(dataset) + stateful_preprocessor(getattr(unwrap(runner.model), 'data_preprocessor', None) or nn.Module())
        if keep:
            print_log(
                f'ExactResumeHook: {", ".join(keep)} changes with the samples that it has seen, which is not part of a checkpoint. A '
                'resumed run WILL DIFFER from an unbroken one, and so will a run with another number of workers. Where that matters, '
                'use transforms that keep nothing: for CachedMosaic and CachedMixUp, Mosaic and MixUp in a MultiImageMixDataset.',
                'current', logging.WARNING)

    def _find_position(self, runner, sampler) -> None:
        """Sets ``_epoch``, and ``_done``: batches of this process in it so far."""
        self._epoch = self._done = 0
        if not self._position:
            if runner.iter > 0:
                print_log('ExactResumeHook: the checkpoint was saved without this hook, so augmentation will differ from that of an '
                          'unbroken run. The data continue at the iteration of the checkpoint.', 'current', logging.WARNING)
                self._epoch, self._done = (0, runner.iter) if self._endless else divmod(runner.iter, len(runner.train_dataloader))
            return
        position, self._position = self._position, None
        if position['sampler_seed'] is not None:
            sampler.seed = position['sampler_seed']
        batch, past = self._batch_size * self._world_size, position['batch_size'] * position['world_size']
        self._epoch, self._done = position['epoch'], position['samples'] // batch
        if batch != past:
            print_log(
                f'ExactResumeHook: an iteration now has {batch} images ({self._world_size} processes x {self._batch_size}), and had '
                f'{past} ({position["world_size"]} x {position["batch_size"]}). Learning rates and the end of the run go by '
                f'iterations, and will differ from those of an unbroken run; {position["samples"] % batch} images are seen twice. '
                f'For the same run, set train_dataloader.batch_size={past / self._world_size:g}.', 'current', logging.WARNING)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Seeds every generator for the iteration."""
        seed_everything(self._seed, _ITERATION, runner.iter, self._rank)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Counts the batch."""
        self._done += 1
        if not self._by_epoch and not self._endless and self._done == len(runner.train_dataloader):
            self._epoch, self._done = self._epoch + 1, 0

    def after_train_epoch(self, runner) -> None:
        """Counts the epoch. A file saved before it, after the last batch, has an epoch to finish, of which no batch is left."""
        if self._by_epoch:
            self._epoch, self._done = self._epoch + 1, 0

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Adds the position."""
        checkpoint[CHECKPOINT_KEY] = dict(
            epoch=self._epoch,
            samples=self._done * self._batch_size * self._world_size,
            batch_size=self._batch_size,
            world_size=self._world_size,
            sampler_seed=getattr(runner.train_dataloader.batch_sampler.sampler, 'seed', None))


class _SeededDataset(Dataset):
    """A dataset whose samples are random by their own number alone. In all else it is the dataset."""

    def __init__(self, dataset: Dataset, seed: int):
        self.__dict__.update(_dataset=dataset, _seed=seed)

    def __getattr__(self, name: str):
        if name == '_dataset':  # not there yet while a worker unpickles it
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self._dataset, name, value)  # hooks that switch the pipeline

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: Union[int, Draw]):
        if isinstance(draw, tuple):
            index, *key = draw
            seed_everything(self._seed, _SAMPLE, *key)
            return self._dataset[index]
        return self._dataset[draw]


class _NumberedBatches:
    """A batch sampler's batches with the epoch and number of each sample, but for the first ``skip`` ones of the first epoch."""

    def __init__(self, batch_sampler, rank: int, world_size: int, skip: int):
        self._batch_sampler, self._rank, self._world_size, self._skip = batch_sampler, rank, world_size, skip

    def __getattr__(self, name: str):
        if name == '_batch_sampler':
            raise AttributeError(name)
        return getattr(self._batch_sampler, name)

    def __len__(self) -> int:
        return len(self._batch_sampler)

    def __iter__(self) -> Iterator[List[Draw]]:
        skip, self._skip = self._skip, 0
        drawn = 0
        for i, batch in enumerate(self._batch_sampler):
            if i >= skip:
                epoch = getattr(self._batch_sampler.sampler, 'epoch', 0)
                yield [(index, epoch, (drawn + k) * self._world_size + self._rank) for k, index in enumerate(batch)]
            drawn += len(batch)


class _ResumedIterator:
    """The iterator of an IterBasedTrainLoop, whose loader begins at the position: the ``past`` batches asked for first are None."""

    def __init__(self, loader: DataLoader, epoch: int, past: int):
        self._loader, self._epoch, self._past, self._batches = loader, epoch, past, None

    def skip_iter(self, num_iters: int) -> None:
        """Nothing is left to skip."""

    def __next__(self):
        if self._past > 0:
            self._past -= 1
            return None
        if self._batches is None:
            sampler = self._loader.batch_sampler.sampler
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(self._epoch)
            self._batches = _InfiniteDataloaderIterator(self._loader)
            self._batches._epoch = self._epoch
        return next(self._batches)
