"""Maps that are wider inside than their layers: zeros up to a number of channels that a runtime's fast kernels want."""
from typing import Any, Iterable

import torch.nn.functional as F
from torch import Tensor, nn


def true_channels(x: Tensor, norm: nn.LayerNorm, dim: int) -> Tensor:
    """Those that a norm is for, if :func:`pad_stage` has made it one of a padded map; of any other map, all."""
    return x.narrow(dim, 0, norm.normalized_shape[0]) if getattr(norm, 'reads_padded', False) else x


def pad_stage(downsample: Any, stage: Any, readers: Iterable[Any], channels: int) -> None:
    """Has a merged stage, and what is before it, compute maps (N, channels, H, W), zero behind the true channels, in place.

    Args:
        downsample (nn.Sequential): The convolution or norm that gives the stage its map is the last layer.
        stage (nn.Sequential): Blocks, ``SLaKBlock``.
        readers (Iterable[nn.LayerNorm]): The norms of what comes out of the stage.
        channels (int): At least as many as there are.
    """
    last = downsample[-1]
    if isinstance(last, nn.Conv2d):
        _widen(last, channels)
        last.out_channels = channels
    elif isinstance(last, nn.LayerNorm):
        downsample.append(nn.ConstantPad3d((0, 0, 0, 0, 0, channels - last.normalized_shape[0]), 0.))
    for block in stage:
        block.large_kernel.switch_to_deploy(channels)
        _widen(block.pwconv2, channels)
        block.pwconv2.out_features = channels
        if block.gamma is not None:
            block.gamma = _padded(block.gamma, channels)
    for norm in (*(block.norm for block in stage), *readers):
        norm.reads_padded = True


def _widen(layer: Any, channels: int) -> None:
    layer.weight, layer.bias = _padded(layer.weight, channels), _padded(layer.bias, channels)


def _padded(parameter: Tensor, rows: int) -> nn.Parameter:
    return nn.Parameter(F.pad(parameter.detach(), (0, 0) * (parameter.dim() - 1) + (0, rows - len(parameter))))
