"""SLaK as the authors' code lays it out in memory, in plain torch: what this package's own SLaK is measured against."""
from typing import Sequence, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from ..models.large_kernel import branch_shapes


class ChannelsFirstNorm(nn.Module):
    """Layer norm over dim 1, operator by operator."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvBN(nn.Module):
    """Depthwise convolution, then batch norm."""

    def __init__(self, channels: int, kernel_size: Tuple[int, int]):
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Block(nn.Module):
    """Three convolutions and batch norms, summed; the MLP on a permuted map; the residual."""

    def __init__(self, channels: int, kernel_size: int, small_kernel_size: int):
        super().__init__()
        shapes = branch_shapes('decomposed', kernel_size, small_kernel_size)
        self.large_kernel = nn.ModuleDict({name: ConvBN(channels, shape) for name, shape in shapes.items()})
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels, ), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        out = sum(branch(x) for branch in self.large_kernel.values())
        out = self.norm(out.permute(0, 2, 3, 1))
        out = self.gamma * self.pwconv2(self.act(self.pwconv1(out)))
        return x + out.permute(0, 3, 1, 2)


class AuthorsLayoutSLaK(nn.Module):
    """The function of ``SLaK(norm_cfg=dict(type='BN'))``, under the same names, computed on maps in the default layout.

    Args:
        depths (Sequence[int]): Blocks of each of the four stages.
        channels (Sequence[int]): Channels of each stage, widened already.
        kernel_sizes (Sequence[int]): The longer edge of each stage's kernels. Defaults to (51, 49, 47, 13).
        small_kernel_size (int): The shorter edge. Defaults to 5.
    """

    def __init__(self, depths: Sequence[int], channels: Sequence[int], kernel_sizes: Sequence[int] = (51, 49, 47, 13),
                 small_kernel_size: int = 5):
        super().__init__()
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i, (depth, width, kernel_size) in enumerate(zip(depths, channels, kernel_sizes)):
            layers: Tuple[nn.Module, nn.Module]
            if i == 0:
                layers = nn.Conv2d(3, width, kernel_size=4, stride=4), ChannelsFirstNorm(width)
            else:
                layers = ChannelsFirstNorm(channels[i - 1]), nn.Conv2d(channels[i - 1], width, kernel_size=2, stride=2)
            self.downsample_layers.append(nn.Sequential(*layers))
            self.stages.append(nn.Sequential(*(Block(width, kernel_size, small_kernel_size) for _ in range(depth))))
        self.norm3 = nn.LayerNorm(channels[-1], eps=1e-6)

    def forward(self, x: Tensor) -> Tuple[Tensor]:
        """(N, 3, H, W) to a tuple of one (N, C)."""
        for downsample, stage in zip(self.downsample_layers, self.stages):
            x = stage(downsample(x))
        return (self.norm3(x.mean((2, 3))), )
