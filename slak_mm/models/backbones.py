"""Where the backbone is, in a config and in a model: a detector in a wrapper, a student and its teacher have theirs deeper inside."""
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from ..errors import InputError
from ..registry import class_of
from .slak import SLaK


def backbone_cfgs(cfg: Config) -> Dict[str, dict]:
    """The configs of the backbones in ``cfg.model``, by their name in the config, as ``'model.detector.backbone'``.

    These are the SLaKs, under whatever name. If there is none, all that are called ``backbone``, or end so, as ``img_backbone``. What
    is no part of a model though its config has it, as the teacher of :class:`slak_mm.Distilled`, does not count.
    """
    named = {name: node for name, node in _dicts('model', cfg.get('model')) if node.get('type')}
    kinds = {name: class_of(node, MODELS, cfg.get('default_scope')) for name, node in named.items()}
    outside = tuple(f'{name}.{part}.' for name, kind in kinds.items() for part in getattr(kind, 'outside', ()))
    named = {name: node for name, node in named.items() if not f'{name}.'.startswith(outside)}
    ours = [name for name in named if kinds[name] is not None and issubclass(kinds[name], SLaK)]  # type: ignore[arg-type]
    return {name: named[name] for name in ours or [name for name in named if name.endswith('backbone')]}


def backbone_cfg(cfg: Config) -> Any:
    """The config of the one backbone in ``cfg.model``.

    Raises:
        InputError: There is none, or several.
    """
    found = backbone_cfgs(cfg)
    if len(found) != 1:
        raise InputError(f'{cfg.filename or "the config"}: one backbone is wanted, and its model has '
                         + (f'{len(found)}: {", ".join(found)}.' if found else 'none: no SLaK, and no part that is called backbone.'))
    return next(iter(found.values()))


def backbone_of(model: nn.Module) -> Any:
    """The one backbone of a model: the SLaK, else the part that is called ``backbone``, or ends so.

    Raises:
        InputError: There is none, or several.
    """
    found = find_modules(model, lambda name, module: isinstance(module, SLaK)) or find_modules(
        model, lambda name, module: name.endswith('backbone'))
    if len(found) != 1:
        raise InputError(f'One backbone is wanted, and {type(model).__name__} has {", ".join(found) or "none"}.')
    return next(iter(found.values()))


def find_modules(model: nn.Module, wanted: Callable[[str, nn.Module], bool]) -> Dict[str, Any]:
    """Parts of a model by their names, those that have no wanted part in them."""
    found = {name: module for name, module in model.named_modules() if wanted(name, module)}
    return {name: module for name, module in found.items()
            if not any(other != name and other.startswith(f'{name}.' if name else '') for other in found)}


def _dicts(name: str, node: Any) -> Iterator[Tuple[str, dict]]:
    children: Optional[Any] = None
    if isinstance(node, dict):
        yield name, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    for key, child in children or ():
        yield from _dicts(f'{name}.{key}', child)
