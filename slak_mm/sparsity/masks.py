from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn


def maskable(model: nn.Module, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The parameters of `model` that may be masked: every weight with 2 or 4 dimensions, a shared one once.

    A parameter whose name does not say 'weight', such as a table of positions or of deviations, is none by default: a layer may
    divide by it.

    Args:
        model: a module that is not wrapped for distributed training, so that the names have no prefix.
        only: if given, just the parameters with 2 or 4 dimensions whose name contains one of these substrings, as 'large_kernel'.
        exclude: not the parameters whose name contains one of these substrings.

    Raises:
        ValueError: when an entry of `only` or `exclude` is in no name, or when no parameter is left.
    """
    only, exclude = as_list(only), as_list(exclude)
    unnamed = [] if only else called_otherwise(model)
    params = {name: p for name, p in model.named_parameters() if p.ndim in (2, 4) and name not in unnamed}
    unmatched = [entry for entry in only + exclude if not any(entry in name for name in params)]
    if unmatched:
        raise ValueError(f'only / exclude: nothing matches {unmatched}; the maskable parameters are {list(params)}')
    chosen = {
        name: p for name, p in params.items()
        if (not only or any(entry in name for entry in only)) and not any(entry in name for entry in exclude)
    }
    if not chosen:
        raise ValueError(f'no parameter to mask: only={only!r} and exclude={exclude!r} leave none of {list(params)}'
                         + (f"; not called 'weight', and so to be named in only: {unnamed}" if unnamed else ''))
    return chosen


def called_otherwise(model: nn.Module) -> list[str]:
    """The parameters with 2 or 4 dimensions that :func:`maskable` leaves out unless told, as their names do not say 'weight'."""
    return [name for name, p in model.named_parameters()
            if p.ndim in (2, 4) and 'weight' not in name.rpartition('.')[2] and 'parametrizations.weight' not in name]


def as_list(names: Sequence[str]) -> list[str]:
    """Names as a list; a lone string is one name, not a sequence of letters."""
    return [names] if isinstance(names, str) else list(names)


_BITS = [1 << i for i in range(8)]


def pack(mask: torch.Tensor) -> torch.Tensor:
    """A bool tensor of any shape as uint8 (ceil(numel / 8),): place i, row-major, is bit i % 8 of byte i // 8."""
    flat = nn.functional.pad(mask.flatten(), (0, -mask.numel() % 8)).view(-1, 8)
    return (flat * torch.tensor(_BITS, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The inverse of `pack`: a bool tensor of `shape`."""
    bits = (packed[:, None] & torch.tensor(_BITS, dtype=torch.uint8, device=packed.device)) != 0
    return bits.flatten()[:torch.Size(shape).numel()].view(torch.Size(shape))


class Masks:
    """The masks of a set of parameters, and what is counted on them.

    A layer without a mask is dense; at first all are. A mask follows its parameter to any device, and serves any
    floating dtype. In memory it is torch.bool, one byte a weight, and a second byte tells whether the weight was ever
    active; in a state dict both are packed to bits.

    Args:
        params: the maskable parameters by name, as from `maskable`. They are referred to, never copied.

    Attributes:
        active: for each layer that is not dense, a bool tensor of the parameter's shape: True is an active weight.
        ever_active: the same, True where the weight is or was active.
    """

    def __init__(self, params: Mapping[str, nn.Parameter]):
        self.params = dict(params)
        self.active: dict[str, torch.Tensor] = {}
        self.ever_active: dict[str, torch.Tensor] = {}

    def assign(self, masks: Mapping[str, torch.Tensor | None]) -> None:
        """Take a new bool mask for each of the parameters, None for dense, and forget the former ones.

        Raises ValueError unless names and shapes are those of the parameters.
        """
        self._check({name: None if mask is None else mask.shape for name, mask in masks.items()})
        self.active = {
            # in the parameter's memory format, so that the multiplication runs through both in the same order
            name: torch.empty_like(self.params[name], dtype=torch.bool, requires_grad=False).copy_(mask)
            for name, mask in masks.items() if mask is not None
        }
        self.ever_active = {name: mask.clone() for name, mask in self.active.items()}

    @torch.no_grad()
    def exchange(self, name: str, pruned: torch.Tensor, grown: torch.Tensor) -> None:
        """Deactivate the weights at the flat (row-major) indices `pruned` of one layer, activate those at `grown`."""
        mask = self.active[name]
        flat = mask.flatten()  # a view, or a copy when the layer is channels_last
        flat[pruned] = False
        flat[grown] = True
        mask.copy_(flat.view_as(mask))
        self.ever_active[name] |= mask

    @torch.no_grad()
    def move(self, name: str, dim: int, pruned: torch.Tensor, grown: torch.Tensor) -> None:
        """Deactivate the slices of a layer at the indices `pruned` of dimension `dim`; those at `grown` get the masks of the first."""
        mask = self.active[name]
        patterns = mask.index_select(dim, pruned[:len(grown)])
        mask.index_fill_(dim, pruned, False).index_copy_(dim, grown, patterns)
        self.ever_active[name] |= mask

    def apply_(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Zero the masked weights (Algorithm 1, lines 3 and 7), and the optimizer's moments of them if it is given.

        A moment is any tensor of the parameter's shape in the optimizer's state of the parameter.
        """
        self._multiply_(lambda p: [p] if optimizer is None else [p, *_moments(optimizer, p)])

    def apply_to_gradients_(self) -> None:
        """Zero the gradients of the masked weights; a parameter without a gradient is passed over."""
        self._multiply_(lambda p: [] if p.grad is None else [p.grad])

    @torch.no_grad()
    def _multiply_(self, tensors_of: Callable[[nn.Parameter], list[torch.Tensor]]) -> None:
        self._follow()
        # torch multiplies by uint8 twice as fast as by bool
        pairs = [pair for name, mask in self.active.items() for tensor in tensors_of(self.params[name])
                 for pair in zip(_pieces(tensor), _pieces(mask.view(torch.uint8)))]
        if pairs:
            torch._foreach_mul_(*map(list, zip(*pairs)))

    def _follow(self) -> None:
        for held in (self.active, self.ever_active):
            for name, mask in held.items():
                held[name] = mask.to(self.params[name].device)

    @property
    def total(self) -> int:
        """Number of maskable weights."""
        return sum(p.numel() for p in self.params.values())

    def counts(self) -> dict[str, int]:
        """Number of active weights of each maskable layer; all of them in a dense one."""
        return self._counts(self.active)

    @property
    def nonzero(self) -> int:
        """Number of active weights. One that has just grown counts, though it still is zero."""
        return sum(self.counts().values())

    def densities(self) -> dict[str, float]:
        """Share of active weights of each maskable layer."""
        return {name: count / self.params[name].numel() for name, count in self.counts().items()}

    @property
    def density(self) -> float:
        """Share of the maskable weights that are active."""
        return self.nonzero / self.total

    @property
    def ever_active_share(self) -> float:
        """Share of the maskable weights that are or were active."""
        return sum(self._counts(self.ever_active).values()) / self.total

    def _counts(self, held: Mapping[str, torch.Tensor]) -> dict[str, int]:
        return {name: int(held[name].count_nonzero()) if name in held else p.numel() for name, p in self.params.items()}

    def state_dict(self) -> dict[str, dict]:
        """For each maskable parameter its 'shape' (a list) and its 'bits': None for a dense layer, else uint8
        (2, ceil(numel / 8)) on the CPU, the packed `active` and `ever_active`.
        """
        bits = {name: torch.stack([pack(mask), pack(self.ever_active[name])]).cpu()
                for name, mask in self.active.items()}
        return {name: {'shape': list(p.shape), 'bits': bits.get(name)} for name, p in self.params.items()}

    def load_state_dict(self, state: Mapping[str, Mapping]) -> None:
        """Restore what `state_dict` returned.

        Raises ValueError, and leaves the masks as they are, when a parameter is missing from the state, is unknown to
        the model, has another shape, or has no bits or too few or many; or when a weight is active that never was.
        """
        strange = [name for name, entry in state.items() if not isinstance(entry, Mapping)]
        if strange:
            raise ValueError(f'these are not masks: {strange}')
        self._check({name: entry.get('shape', ()) for name, entry in state.items()})
        bits = {name: state[name].get('bits', torch.empty(0)) for name in self.params}
        sizes = {name: (2, (p.numel() + 7) // 8) for name, p in self.params.items()}
        wrong = [name for name, value in bits.items() if value is not None and not (
            torch.is_tensor(value) and value.dtype == torch.uint8 and value.shape == sizes[name])]
        if wrong:
            raise ValueError(f'the bits of these masks are missing or of another size: {wrong}')
        wrong = [name for name, value in bits.items() if value is not None and (value[0] & ~value[1]).any()]
        if wrong:
            raise ValueError(f'these masks have active weights that never were active: {wrong}')
        self.assign({name: None if bits[name] is None else unpack(bits[name][0], p.shape)
                     for name, p in self.params.items()})
        for name, ever in self.ever_active.items():
            ever.copy_(unpack(bits[name][1], ever.shape))

    def _check(self, shapes: Mapping[str, Sequence[int] | None]) -> None:
        faults = [f'{name} is missing' for name in self.params if name not in shapes]
        for name, shape in shapes.items():
            if name not in self.params:
                faults.append(f'{name} is not among the maskable parameters')
            elif shape is not None and list(shape) != list(self.params[name].shape):
                faults.append(f'{name} is {list(shape)} instead of {list(self.params[name].shape)}')
        if faults:
            raise ValueError('these masks are not of this model: ' + '; '.join(faults))


def _pieces(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    # The CPU casts the mask to the dtype of the weights before it multiplies: in pieces that happens in the cache.
    rows = len(tensor) if tensor.is_cuda else 2**18 * len(tensor) // tensor.numel()
    return tensor.split(max(rows, 1))


def _moments(optimizer: torch.optim.Optimizer, param: nn.Parameter) -> list[torch.Tensor]:
    # .get, because the state is a defaultdict
    return [v for v in optimizer.state.get(param, {}).values() if torch.is_tensor(v) and v.shape == param.shape]
