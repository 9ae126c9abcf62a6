"""Cuts out what a sparse training has removed as a whole: the same results from a smaller, dense model."""
import os
from pathlib import Path
from pprint import pformat
from typing import Any, Dict, List, Optional

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..errors import InputError
from ..models import SLaK
from ..models.backbones import backbone_cfg, backbone_cfgs
from ..models.bypass import is_untouched
from ..models.large_kernel import DepthwiseConvBN, LargeKernel
from ..models.slak import SLaKBlock


def compact(model: nn.Module) -> Dict[str, Dict[str, Any]]:
    """Cuts hidden units and filters that change no output out of each SLaK in a model, or of the model if it is one, in place.

    Hidden units: those that nothing uses, whose column of the second layer is zero, and those that are always zero: row and bias of
    the first one are, and so is GELU of zero. Filters: channels of a parallel convolution whose kernel is zero; what its batch norm
    adds in evaluation is added by the norm of another convolution. In evaluation outputs stay equal, up to the order in which numbers
    are added; in training, once the running means of dead filters have come to zero. What is left is an ordinary SLaK, with
    ``mlp_channels`` and ``filters``, which trains, merges and exports as any other. A block keeps a unit, each convolution a filter,
    and each channel one of them. An optimizer must be built afterwards.

    Args:
        model (nn.Module): Not wrapped for distributed training.

    Returns:
        dict[str, dict]: Name of each SLaK, and the arguments to build it again, if it has not all: ``mlp_channels`` and ``filters``.

    Raises:
        TypeError: A layer was changed, wrapped or hooked; or the model has no SLaK. Nothing was cut.
    """
    backbones: Dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, SLaK)}
    if not backbones:
        raise TypeError(f'{type(model).__name__} has no SLaK, of which something could be cut out.')
    blocks: List[Any] = [module for backbone in backbones.values() for module in backbone.modules() if isinstance(module, SLaKBlock)]
    for block in blocks:
        for layer in (block.pwconv1, block.pwconv2):
            if not is_untouched(layer, nn.Linear, 'weight', 'bias'):
                raise TypeError(f'The {type(layer).__name__} of a block was changed, wrapped or hooked, so nothing can be cut out of '
                                'it: undo that first (remove_parametrizations, prune.remove, merge adapters ...), or use the model as '
                                'it is.')
        if any(_is_dead(branch).any() for branch in _branches(block.large_kernel)):
            block.large_kernel.check_mergeable()
    for block in blocks:
        _cut_units(block)
        _cut_filters(block.large_kernel, len(block.norm.weight))
    for backbone in backbones.values():
        hidden = [tuple(block.pwconv1.out_features for block in stage) for stage in backbone.stages]
        filters = [tuple({name: len(branch.index) for name, branch in block.large_kernel.named_children()
                          if getattr(branch, 'index', None) is not None} for block in stage) for stage in backbone.stages]
        backbone.mlp_channels = (*hidden, *backbone.mlp_channels[len(hidden):])
        backbone.filters = (*filters, *backbone.filters[len(filters):])
    return {name: _arguments(backbone) for name, backbone in backbones.items()}


def _arguments(backbone: SLaK) -> Dict[str, Any]:
    """Those of a compact SLaK."""
    found: Dict[str, Any] = {}
    if any(hidden != (4 * width, ) * len(hidden) for hidden, width in zip(backbone.mlp_channels, backbone.channels)):
        found['mlp_channels'] = backbone.mlp_channels
    if any(kept for stage in backbone.filters for kept in stage):
        found['filters'] = backbone.filters
    return found


def _branches(layer: LargeKernel) -> List[DepthwiseConvBN]:
    """Convolutions side by side, whose norms can add what that of another one did."""
    found = [branch for branch in layer.branches if isinstance(branch, DepthwiseConvBN)] if layer.is_parallel else []
    return found if all(_bias(branch) is not None for branch in found) else []


def _bias(branch: DepthwiseConvBN) -> Any:
    return getattr(branch.conv if branch.bn is None else branch.bn, 'bias', None)


def _is_dead(branch: DepthwiseConvBN) -> Tensor:
    return (branch.conv.weight == 0).flatten(1).all(1)


@torch.no_grad()
def _cut_filters(layer: LargeKernel, channels: int) -> None:
    branches = _branches(layer)
    if not any(_is_dead(branch).any() for branch in branches):
        return
    some = branches[0].conv.weight
    places = [torch.arange(channels, device=some.device) if branch.index is None else branch.index for branch in branches]
    alive = [~_is_dead(branch) for branch in branches]
    unclaimed = torch.ones(channels, dtype=torch.bool, device=some.device)
    for place, lives in zip(places, alive):
        unclaimed[place[lives]] = False
    for place, lives in zip(places, alive):  # the first convolution keeps what none has
        lives |= unclaimed[place]
        unclaimed[place] = False
        lives[0] |= ~lives.any()
    constant = some.new_zeros(channels)
    for branch, place, lives in zip(branches, places, alive):
        shift = branch.folded()[1]
        if shift is not None:
            constant[place[~lives]] += shift[~lives]
    for branch, place, lives in zip(branches, places, alive):
        kept = place[lives]
        _bias(branch)[lives] += constant[kept]
        constant[kept] = 0
        if not lives.all():
            branch.keep(lives.nonzero().squeeze(1))


@torch.no_grad()
def _cut_units(block: Any) -> None:
    first, second = block.pwconv1, block.pwconv2
    used = (second.weight != 0).any(0) & ((first.weight != 0).any(1) | (first.bias != 0))
    alive = used.nonzero().squeeze(1)
    if len(alive) == 0:
        alive = alive.new_zeros(1)
    if len(alive) == len(used):
        return
    for layer, name, dim in ((first, 'weight', 0), (first, 'bias', 0), (second, 'weight', 1)):
        old = getattr(layer, name)
        setattr(layer, name, nn.Parameter(old.detach().index_select(dim, alive), requires_grad=old.requires_grad))
    first.out_features = second.in_features = len(alive)


def write_config(target: Path, config: Dict[str, Any], base: Optional[str] = None) -> Path:
    """Writes the config of a compact checkpoint next to it, under its name: ``mlp_channels`` and ``filters``, on top of ``base``.

    Args:
        target (Path): The checkpoint.
        config (dict): Arguments of its backbone, from :func:`slak_mm.checkpoints.convert.inspect`.
        base (str, optional): Config of the model that it was made from. Defaults to None: what is written is to be put on top of it.

    Returns:
        Path: Of the config.

    Raises:
        InputError: ``base`` has no backbone, or several; or another file has the name.
    """
    path, title = target.with_suffix('.py'), '# The backbone that '
    if path.exists() and not path.read_text().startswith(title):
        raise InputError(f'{path} is there already, and not of this tool. Give {target.name} another name: a config is put beside it.')
    changes: Dict[str, Any] = {name: config[name] for name in ('mlp_channels', 'filters', 'deploy') if name in config}
    names, lines = ['model', 'backbone'], [f'{title}{target.name} fits.']
    if base:
        cfg = Config.fromfile(base)
        backbone_cfg(cfg)
        names = next(iter(backbone_cfgs(cfg))).split('.')
        lines.append(f'_base_ = {os.path.relpath(base, target.parent)!r}')
    for name in reversed(names[1:]):
        changes = {name: changes}
    path.write_text('\n'.join([*lines, f'{names[0]} = {pformat(changes, width=120, compact=True)}', '']))
    return path
