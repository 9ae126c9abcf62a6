"""A small model in a real Runner, with SparsityHook, and how the tests compare what it saves."""
import uuid

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from slak_mm.compat import load_weights_only

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


@OPTIM_WRAPPERS.register_module(force=True)
class ScalerWrapper(OptimWrapper):
    """mmengine's AmpOptimWrapper, which needs an accelerator, in fp32 on the CPU; the loss overflows in some iterations."""

    def __init__(self, overflows, **kwargs):
        super().__init__(**kwargs)
        self.overflows, self.scaler = overflows, torch.amp.GradScaler('cpu')

    def backward(self, loss):
        self.scaler.scale(loss * (float('inf') if self._inner_count in self.overflows else 1)).backward()
        self._inner_count += 1

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


def build(work_dir, model=None, hooks=(dict(interval=2), ), iters=8, resume=None, accumulate=1, shuffle=True, ema=None, save=4,
          optim_wrapper=dict(type='OptimWrapper'), optimizer=dict(type='AdamW', lr=1e-2), default_hooks={}, **kwargs):
    """``hooks`` are options of SparsityHook; ``ema``, those of EMAHook; ``resume``, a file or True; ``kwargs``, of the Runner."""
    defaults = dict(
        train_dataloader=dict(batch_size=4, num_workers=0, dataset=Data(), collate_fn=dict(type='default_collate'),
                              sampler=dict(type='InfiniteSampler', shuffle=shuffle)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters),
        randomness=dict(seed=0))
    return Runner(
        model=model or Model(),
        work_dir=str(work_dir),
        optim_wrapper=dict(optim_wrapper, optimizer=optimizer, accumulative_counts=accumulate),
        default_hooks=dict(dict(checkpoint=dict(type='CheckpointHook', interval=save, by_epoch=False), logger=None), **default_hooks),
        custom_hooks=[dict(type='slak_mm.SparsityHook', **hook) for hook in hooks]
        + ([] if ema is None else [dict(type='EMAHook', priority='ABOVE_NORMAL', **ema)]),
        load_from=None if resume is True else resume,
        resume=resume is not None,
        experiment_name=uuid.uuid4().hex,  # a Runner of the same name and second would share the message hub, best scores included
        default_scope='mmengine',
        **{**defaults, **kwargs})


def run(*args, **kwargs):
    runner = build(*args, **kwargs)
    runner.train()
    return runner


def hook(runner):
    return next(hook for hook in runner.hooks if type(hook).__name__ == 'SparsityHook')


def saved(folder, name):
    return load_weights_only(folder / name, 'cpu')


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def same_training(a, b):
    return all(equal(a[key], b[key]) for key in ('state_dict', 'optimizer', 'sparsity', 'data_position'))
