"""A small net with neurons of two kinds, and filters; and what must hold of its units at any time."""
import torch
from sparsity_helpers import moments
from torch import nn


class Bottleneck(nn.Module):
    """Its second convolution has hidden units on both sides."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 7, 1), nn.BatchNorm2d(7)
        self.conv2, self.bn2 = nn.Conv2d(7, 9, 3, padding=1), nn.BatchNorm2d(9)
        self.conv3 = nn.Conv2d(9, 6, 1)

    def forward(self, x):
        return x + self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu())


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.pwconv1, self.pwconv2 = nn.Linear(6, 20), nn.Linear(20, 6)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        return (x + self.pwconv2(nn.functional.gelu(self.pwconv1(x)))).permute(0, 3, 1, 2)


class Net(nn.Module):
    inputs, classes = (4, 6, 5, 5), 4

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.dw = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.block, self.mlp, self.head = nn.BatchNorm2d(6), Bottleneck(), MLP(), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.mlp(self.block(self.norm(self.dw(x)))).mean((2, 3)))


def assert_whole(sparsity, optimizer):
    """No unit is half dead: of dead ones nothing is left, and of those alive all is active, unless single weights are masked too."""
    masks, units = sparsity.masks, sparsity.units
    inside = 'weight' in sparsity.config['granularity']
    for name, alive in units.alive.items():
        for param, dim in units.groups[name].parts:
            weight = masks.params[param]
            dead = (~alive).nonzero().squeeze(1)
            for tensor in (weight, masks.active[param], *moments(optimizer, weight).values()):
                assert tensor.index_select(dim, dead).count_nonzero() == 0
    for param, active in masks.active.items():
        live = units.live(param, active.device)
        assert (active if live is None else active & ~live).sum() == (active.sum() if live is None else 0)
        assert inside or torch.equal(active, live.expand(active.shape))
