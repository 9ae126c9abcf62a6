"""Cuts out what a sparse training has removed as a whole: the same results from a smaller, dense model."""
import os
from pathlib import Path
from pprint import pformat
from typing import Any, Dict, Optional, Tuple

import torch
from mmengine.config import Config
from torch import nn

from ..errors import InputError
from ..models import SLaK
from ..models.backbones import backbone_cfg, backbone_cfgs
from ..models.bypass import is_untouched
from ..models.slak import SLaKBlock


def compact(model: nn.Module) -> Dict[str, Tuple[Tuple[int, ...], ...]]:
    """Cuts the hidden units that change no output out of each SLaK in a model, or of the model if it is one, in place.

    Such are those that nothing uses, whose column of the second layer is zero, and those that are always zero: row and bias of the
    first one are, and so is GELU of zero. Outputs stay equal, up to the order in which numbers are added. What is left is an ordinary
    SLaK, with ``mlp_channels``, which trains, merges and exports as any other. A block keeps at least one unit. An optimizer must be
    built afterwards.

    Args:
        model (nn.Module): Not wrapped for distributed training.

    Returns:
        dict[str, tuple]: Name of each SLaK, and its ``mlp_channels``, the argument to build it again: of each stage, the number of
        hidden units in each block.

    Raises:
        TypeError: A linear layer was changed, wrapped or hooked; or the model has no SLaK. Nothing was cut.
    """
    backbones: Dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, SLaK)}
    if not backbones:
        raise TypeError(f'{type(model).__name__} has no SLaK, whose hidden units could be cut out.')
    blocks = [module for backbone in backbones.values() for module in backbone.modules() if isinstance(module, SLaKBlock)]
    for block in blocks:
        for layer in (block.pwconv1, block.pwconv2):
            if not is_untouched(layer, nn.Linear, 'weight', 'bias'):
                raise TypeError(f'The {type(layer).__name__} of a block was changed, wrapped or hooked, so nothing can be cut out of '
                                'it: undo that first (remove_parametrizations, prune.remove, merge adapters ...), or use the model as '
                                'it is.')
    for block in blocks:
        _cut(block)
    for backbone in backbones.values():
        built = [tuple(block.pwconv1.out_features for block in stage) for stage in backbone.stages]
        backbone.mlp_channels = (*built, *backbone.mlp_channels[len(built):])
    return {name: backbone.mlp_channels for name, backbone in backbones.items()}


@torch.no_grad()
def _cut(block: Any) -> None:
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
    """Writes the config of a compact checkpoint next to it, under its name: its backbone's ``mlp_channels``, on top of ``base``.

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
    changes: Dict[str, Any] = {name: config[name] for name in ('mlp_channels', 'deploy') if name in config}
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
