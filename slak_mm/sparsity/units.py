"""Units: slices of several parameters that die, and grow, as one. What dies as one can be cut out (`slak_mm.deploy.compact`).

A neuron is a hidden unit of an MLP: its row of the first layer, its bias, its column of the second one. A filter is one channel's
kernel of a depthwise convolution. Either is a `Group` of slices; nothing else in this package asks which it is, but for what it grows
from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add, and_
from typing import NamedTuple

import torch
from torch import nn

from .masks import Masks, as_list, pack, unpack

# Layers by their names in a module: hidden units are outputs of the first, inputs of the last, and belong to norms between these.
# A module of another kind says its own in an attribute `neurons`.
NEURONS = (
    ('pwconv1', 'pwconv2'),  # ConvNeXt of its authors
    ('pointwise_conv1', 'pointwise_conv2'),  # ConvNeXt of mmpretrain
    ('layers.0.0', 'layers.1'),  # FFN of mmcv: Swin, ViT, DETR
    ('fc1', 'fc2'),  # Mlp of timm
    ('linear1', 'linear2'),  # torch's TransformerEncoderLayer
    ('0', '3'),  # MLP of torchvision: Linear, activation, dropout, Linear
    ('conv1', 'bn1', 'conv2'),  # ResNet: bottleneck and basic block
    ('conv2', 'bn2', 'conv3'),  # ResNet: bottleneck
)


class Group(NamedTuple):
    """The units of one layer: unit i is index i of dimension `dim` in each of `parts`, pairs (name of a parameter, dim).

    The parts with dimension 0 make a unit's activation, the others use it.
    """
    kind: str
    parts: tuple[tuple[str, int], ...]


def neurons(model: nn.Module) -> dict[str, Group]:
    """The hidden units of each MLP and residual block of `model`, by the name of its first layer.

    Which layers belong together is said by a module's `neurons`, a sequence of tuples of names of its layers (as SLaK's blocks do),
    else by `NEURONS`. Only linear layers and convolutions without groups count, whose sizes match.
    """
    groups = {}
    for prefix, module in model.named_modules():
        for names in (*getattr(module, 'neurons', ()), *NEURONS):
            layers = [_get(module, name) for name in names]
            first, last = layers[0], layers[-1]
            if (_is_dense(first) and _is_dense(last) and first.weight.shape[0] == last.weight.shape[1]
                    and all(_is_norm(norm, len(first.weight)) for norm in layers[1:-1])):
                paths = [f'{prefix}.{name}' if prefix else name for name in names]
                own = [(f'{path}.{kind}', 0) for path, layer in zip(paths[:-1], layers[:-1])
                       for kind in ('weight', 'bias') if getattr(layer, kind) is not None]
                groups[paths[0]] = Group('neuron', (*own, (f'{paths[-1]}.weight', 1)))
    return groups


def filters(model: nn.Module) -> dict[str, Group]:
    """The kernels of each depthwise convolution of `model`, one a channel, by the name of the layer."""
    return {name: Group('filter', ((f'{name}.weight', 0), )) for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1}


KINDS = {'neuron': neurons, 'filter': filters}


def find(model: nn.Module, kind: str, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> dict[str, Group]:
    """The groups of units of `kind`; `only` and `exclude` are parts of the names of their parameters, as for `maskable`.

    Raises:
        ValueError: when there is none.
    """
    only, exclude = as_list(only), as_list(exclude)

    def named(group: Group, entries: list[str]) -> bool:
        return any(entry in name for entry in entries for name, _ in group.parts)

    own = {name for name, _ in model.named_parameters()}  # a shared one has one of its names
    found = {name: group for name, group in KINDS[kind](model).items() if all(param in own for param, _ in group.parts)}
    chosen = {name: group for name, group in found.items() if (not only or named(group, only)) and not named(group, exclude)}
    if not chosen:
        raise ValueError(f'no {kind} to mask: only={only!r} and exclude={exclude!r} leave none of {list(found)}' if found else
                         f'no {kind} to mask: no layers of the model are known to have any; a module can name them in `neurons`')
    return chosen


def _get(module: nn.Module, path: str):
    for name in path.split('.'):
        module = getattr(module, '_modules', {}).get(name)  # type: ignore[assignment]
    return module


def _is_dense(layer) -> bool:
    return isinstance(layer, nn.Linear) or isinstance(layer, nn.Conv2d) and layer.groups == 1


def _is_norm(layer, size: int) -> bool:
    weight = getattr(layer, 'weight', None)
    return weight is not None and weight.shape == (size, ) and getattr(layer, 'bias', None) is not None


class Units:
    """Which units are alive, and what follows from it for the parameters they are slices of.

    Args:
        groups: as from `find`, of any kinds.
        params: each parameter that has a part in them, by name.

    Attributes:
        alive: for each group that has, or may get, dead units a bool tensor (units,), on the CPU.
    """

    def __init__(self, groups: Mapping[str, Group], params: Mapping[str, nn.Parameter]):
        self.groups = dict(groups)
        self.params = dict(params)
        self.alive: dict[str, torch.Tensor] = {}
        self._axes: dict[str, list[tuple[int, str]]] = {}
        for name, group in self.groups.items():
            for param, dim in group.parts:
                self._axes.setdefault(param, []).append((dim, name))

    def size(self, name: str) -> int:
        """Number of units of a group, dead ones too."""
        param, dim = self.groups[name].parts[0]
        return self.params[param].shape[dim]

    def counts(self) -> dict[str, int]:
        """Number of units alive in each group."""
        return {name: int(self.alive[name].count_nonzero()) if name in self.alive else self.size(name) for name in self.groups}

    def describe(self) -> list[str]:
        """How many are alive, a line for each kind: '600 of 1,000 neurons of 3 layers are alive'."""
        counts, lines = self.counts(), []
        for kind in KINDS:
            own = [name for name, group in self.groups.items() if group.kind == kind]
            if own:
                alive = sum(counts[name] for name in own)
                lines.append(f'{alive:,} of {sum(map(self.size, own)):,} {kind}s of {len(own)} layers are alive')
        return lines

    def shape(self, name: str, shape: torch.Size) -> torch.Size:
        """Of the parameter `name`, of `shape`, without its dead slices."""
        sizes = list(shape)
        for dim, group in self._masked_axes(name):
            sizes[dim] = int(self.alive[group].count_nonzero())
        return torch.Size(sizes)

    def live(self, name: str, device: torch.device) -> torch.Tensor | None:
        """Which places of the parameter `name` are in units alive: bool, of a shape that expands to its own. None is all."""
        masks = []
        for dim, group in self._masked_axes(name):
            shape = [1] * self.params[name].ndim
            shape[dim] = -1
            masks.append(self.alive[group].to(device).view(shape))
        return reduce(and_, masks) if masks else None

    def pick(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What of `tensor`, of the shape of the parameter `name`, is in units alive, close together."""
        for dim, group in self._masked_axes(name):
            tensor = tensor.index_select(dim, self.alive[group].to(tensor.device).nonzero().squeeze(1))
        return tensor

    def spread(self, name: str, inner: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
        """The mask of the whole parameter `name`, from that of what `pick` returns; None is all."""
        live = self.live(name, device)
        if live is None:
            return inner
        mask = live.expand(self.params[name].shape).clone()
        if inner is not None:
            mask[mask.clone()] = inner.to(device).flatten()
        return mask

    def _masked_axes(self, name: str) -> list[tuple[int, str]]:
        return [(dim, group) for dim, group in self._axes.get(name, ()) if group in self.alive]

    def mean(self, name: str, values: Mapping[str, torch.Tensor], masks: Masks | None = None) -> torch.Tensor:
        """Of each unit of a group the mean over its weights, (units,); with `masks`, over those that are active alone.

        Of magnitudes, this is Chase's unmasked mean magnitude (Yin et al., 2023, section 3.2), over all slices of a unit.

        Args:
            name: of the group.
            values: for each of its parameters a tensor of the parameter's shape.
            masks: see above.
        """
        totals, counts = [], []
        for param, dim in self.groups[name].parts:
            if self.params[param].ndim > 1:
                active = torch.ones_like(values[param], dtype=torch.bool) if masks is None else masks.active[param]
                totals.append(_reduce(values[param] * active, dim))
                counts.append(_reduce(active, dim))
        return reduce(add, totals) / reduce(add, counts).clamp(min=1)

    def dead(self, name: str) -> torch.Tensor:
        """Which units of a group have no weight that is not zero, but for biases and norms: bool (units,), on the CPU."""
        return reduce(and_, [_reduce(self.params[param].detach() != 0, dim) == 0 for param, dim in self.groups[name].parts
                             if self.params[param].ndim > 1]).cpu()

    @torch.no_grad()
    def exchange(self, name: str, pruned: torch.Tensor, grown: torch.Tensor, masks: Masks, rng: torch.Generator) -> None:
        """Let the units with the indices `pruned` die, and those at `grown` (no more than these) live.

        A unit that grows gets the pattern of active weights of one that dies, so that each parameter keeps its number of them. What
        computes a neuron starts at random, as large as in the others (a norm's weight at their mean, biases at zero); what uses it
        starts at zero: the output stays, yet gradients reach both. A filter starts at zero: gradients reach it through its norm.
        """
        group = self.groups[name]
        for param, dim in group.parts:
            active, weight = masks.active[param], self.params[param]
            places = [index.to(weight.device) for index in (pruned, grown)]
            if group.kind == 'neuron' and dim == 0 and len(grown):
                weight.index_copy_(0, places[1], self._start(weight, active, len(grown), rng, param.endswith('bias')))
            masks.move(param, dim, *places)
        self.alive[name][pruned.cpu()] = False
        self.alive[name][grown.cpu()] = True

    @staticmethod
    def _start(weight: torch.Tensor, active: torch.Tensor, count: int, rng: torch.Generator, is_bias: bool) -> torch.Tensor:
        shape = (count, *weight.shape[1:])
        if is_bias:
            return weight.new_zeros(shape)
        number = active.count_nonzero().clamp(min=1)
        if weight.ndim == 1:
            return (weight.float() * active).sum().div(number).to(weight.dtype).expand(shape)
        scale = (weight.float() * active).square().sum().div(number).sqrt()
        return (torch.randn(shape, generator=rng).to(weight.device) * scale).to(weight.dtype)

    def state_dict(self) -> dict[str, torch.Tensor | None]:
        """For each group the packed bits of `alive`, uint8 (ceil(units / 8),), or None: all are, for good."""
        return {name: pack(self.alive[name]) if name in self.alive else None for name in self.groups}

    def check(self, state: Mapping) -> None:
        """Raises ValueError unless `state` is one of these groups."""
        if not isinstance(state, Mapping) or state.keys() != self.groups.keys():
            raise ValueError(f'these units are not of this model: it has {list(self.groups)}')
        wrong = [name for name, bits in state.items() if bits is not None and not (
            torch.is_tensor(bits) and bits.dtype == torch.uint8 and bits.shape == ((self.size(name) + 7) // 8, ))]
        if wrong:
            raise ValueError(f'the bits of these units are of another size: {wrong}')

    def load_state_dict(self, state: Mapping[str, torch.Tensor | None]) -> None:
        """Restore what `state_dict` returned; `check` it first."""
        self.alive = {name: unpack(bits.cpu(), (self.size(name), )) for name, bits in state.items() if bits is not None}


def _reduce(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum over all dimensions but one."""
    return tensor if tensor.ndim == 1 else tensor.sum([d for d in range(tensor.ndim) if d != dim])
