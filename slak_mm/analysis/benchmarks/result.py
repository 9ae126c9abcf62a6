"""The result of a benchmark, and what its parts share."""
from statistics import median
from typing import Dict, List, NamedTuple

import torch
from torch import Tensor

from ..networks import CONVNEXT

SPARSITY = 0.4
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)


class Result(NamedTuple):
    """Seconds of each repetition of each case, their ratios, and other figures by their unit."""
    seconds: Dict[str, List[float]]
    ratios: Dict[str, float]
    figures: Dict[str, Dict[str, float]] = {}


def medians_of(seconds: Dict[str, List[float]]) -> Dict[str, float]:
    """The median of the seconds of each case."""
    return {name: median(samples) for name, samples in seconds.items()}


def convnext(medians: Dict[str, float], rest: str) -> float:
    """The median of ConvNeXt in its better memory layout."""
    return min(medians[f'{name}, {rest}'] for name in CONVNEXT)


def drop(weight: Tensor) -> Tensor:
    """``weight`` with 40% zeros: where they are is all the same to a dense kernel."""
    return weight * (torch.rand_like(weight, dtype=torch.float32) >= SPARSITY).to(weight.dtype)
