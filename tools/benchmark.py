"""What things cost on this machine: the cases of a part are measured in turn, in one run, and compared by their medians.

Prints a table and writes it, with every sample, as JSON.
"""
import argparse
import json
import platform
import time
from pathlib import Path
from statistics import median
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import common  # noqa: F401
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from slak_mm.models import SLaK
from slak_mm.sparsity import DynamicSparsity

CLASSES = 1000
INTERVAL = 100  # the paper's number of steps from one adaptation of the masks to the next


class Result(NamedTuple):
    """Seconds of each repetition of each case, and the ratios that they come to."""
    seconds: Dict[str, List[float]]
    ratios: Dict[str, float]


def interleaved(cases: Dict[str, Callable[[], object]], repeats: int) -> Dict[str, List[float]]:
    """Seconds of each case: all run in order, ``repeats`` times over, after a round that does not count."""
    seconds: Dict[str, List[float]] = {name: [] for name in cases}
    for repeat in track(range(repeats + 1), 'measuring', console=Console(stderr=True)):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def upkeep(args: argparse.Namespace) -> Result:
    """Sparse training: the share of masks and their adaptation in a train step."""
    backbone = SLaK(args.arch, norm_cfg=dict(type='BN'))
    backbone.init_weights()
    head = nn.Linear(backbone.channels[-1], CLASSES)
    model = nn.ModuleList([backbone, head])
    images, labels = torch.randn(args.batch, 3, args.size, args.size), torch.randint(CLASSES, (args.batch, ))
    optimizer = torch.optim.AdamW(model.parameters())

    def loss() -> torch.Tensor:
        return F.cross_entropy(head(backbone(images)[-1]), labels)

    def forward_and_backward():
        optimizer.zero_grad()
        loss().backward()

    def adapting():
        sparsity.before_step(optimizer)
        assert sparsity.step(optimizer)

    # so that every second step adapts, which is the one that `adapting` makes
    sparsity = DynamicSparsity(model, total_steps=1000 * args.repeats, interval=2)
    sparsity.initialize(loss)
    seconds = interleaved({
        'forward and backward': forward_and_backward,
        'masks on gradients': lambda: sparsity.before_step(optimizer),
        'optimizer': optimizer.step,
        'masks on weights': lambda: sparsity.step(optimizer),
        'masks, with an adaptation': adapting,
    }, args.repeats)
    forward_and_backward, gradients, step, weights, adapting = map(median, seconds.values())
    adaptation = adapting - gradients - weights
    ...
