"""The names of official SLaK files, and of any other, to those of :class:`slak_mm.SLaK`."""
import logging
import re
from collections import OrderedDict
from typing import Dict, Iterable, List, Optional

from mmengine.logging import print_log
from torch import Tensor

from .file import CheckpointError

# One table: how the authors name the branches of a large-kernel layer, over the years, and how we do.
OFFICIAL_NAMES = dict(LoRA1='tall', LoRA2='wide', Decom1='tall', Decom2='wide', small_conv='small', lkb_origin='full',
                      lkb_reparam='full.conv')
_OFFICIAL_NAME = re.compile(rf'(?<=\blarge_kernel\.)({"|".join(OFFICIAL_NAMES)})(?=\.)')
STEM = 'downsample_layers.0.0.weight'  # every file of a SLaK has this key, so what stands before it is the prefix
# what wrappers put into a name, at its beginning or in its middle: DistributedDataParallel and averages, torch.compile, FSDP
_WRAPPER = re.compile(r'(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


def unwrapped(name: str) -> str:
    """The name of a weight without what wrappers put into it: ``backbone._orig_mod.norm3.bias`` is ``backbone.norm3.bias``."""
    return _WRAPPER.sub('', name)


def rename(names: Iterable[str]) -> Dict[str, str]:
    """The authors' names to ours.

    Raises:
        CheckpointError: Two of them would have one name.
    """
    return _distinct({name: _OFFICIAL_NAME.sub(lambda match: OFFICIAL_NAMES[match[0]], name) for name in names})


def _distinct(ours: Dict[str, str]) -> Dict[str, str]:
    if len(set(ours.values())) < len(ours):
        twice = sorted(name for name, own in ours.items() if list(ours.values()).count(own) > 1)
        raise CheckpointError(f'The file holds one weight under two names: {", ".join(twice[:2])}. Nothing was loaded. Remove one.')
    return ours


def convert_state_dict(state_dict: Dict[str, Tensor], prefix: Optional[str] = None) -> Dict[str, Tensor]:
    """Renames the weights of any SLaK file to those of a whole OpenMMLab model: ``backbone.*``, ``head.fc.*``, ``decode_head.*`` ...

    A classifier's output norm is ``backbone.norm`` in the result: only a backbone that pools before its norm has a place for it
    (:func:`adapt_state_dict`). Of a file that holds more than the model with this backbone, the rest is left out, with a warning.

    Args:
        state_dict (dict[str, Tensor]): From an official ImageNet file, an mmcv-1 downstream file, or mmengine, in wrappers or not.
        prefix (str, optional): What stands before the backbone's keys. Only needed if the file holds several backbones.

    Raises:
        CheckpointError: The file holds no SLaK, or several and ``prefix`` names none, or a weight under two names.
    """
    names = rename_all(state_dict)
    prefix = _find_prefix(names.values(), prefix and unwrapped(f'{prefix.rstrip(".")}.'))
    bare = _is_bare(names.values(), prefix)
    root = prefix if bare else prefix[:-len('backbone.')] if f'.{prefix}'.endswith('.backbone.') else ''

    converted, left_out = OrderedDict(), []
    for theirs, name in names.items():
        value = state_dict[theirs]
        if not name.startswith(root):
            left_out.append(name)
        if not name.startswith(root) or not isinstance(value, Tensor):
            continue
        if bare:
            name = name[len(root):]
            name = f'head.fc.{name[5:]}' if name.startswith('head.') else f'backbone.{name}'
        elif name.startswith(prefix):
            name = f'backbone.{name[len(prefix):]}'
        else:
            name = name[len(root):]
        converted[name] = value
    if left_out:
        print_log(f'{len(left_out)} weights of the file are left out, which do not belong to the model of {prefix}: '
                  f'{", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in left_out))}.', 'current', logging.WARNING)
    norms = {name.split('.')[1] for name in converted if name.startswith('backbone.norm')}
    if 'head.fc.weight' in converted and len(norms) == 1:
        norm = f'backbone.{norms.pop()}.'
        converted = OrderedDict((name.replace(norm, 'backbone.norm.'), value) for name, value in converted.items())
    return converted


def name_as_model(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Renames the weights of a file to those of the model that it was saved from, whoever saved it, and in whatever wrappers.

    Raises:
        CheckpointError: See :func:`convert_state_dict`, which a backbone, or an official classifier, is given to.
    """
    names = rename_all(state_dict)
    found = prefixes(names.values())
    if len(found) < 2 and _is_bare(names.values(), _find_prefix(names.values(), None)):
        return convert_state_dict(state_dict)
    return OrderedDict((name, state_dict[theirs]) for theirs, name in names.items() if isinstance(state_dict[theirs], Tensor))


def rename_all(names: Iterable[str]) -> Dict[str, str]:
    """Any names to ours: the authors' branches, and without what wrappers put into them.

    Raises:
        CheckpointError: Two of them would have one name.
    """
    plain = _distinct({name: unwrapped(name) for name in names})
    ours = rename(plain.values())
    return {name: ours[own] for name, own in plain.items()}


def prefixes(names: Iterable[str]) -> List[str]:
    """What stands before the names of each SLaK, as ``'backbone.'``."""
    return [name[:-len(STEM)] for name in names if name.endswith(STEM)]


def move(names: Iterable[str], theirs: str, ours: str) -> Dict[str, str]:
    """Names of a model whose backbone's begin with ``theirs`` to those of one whose backbone's begin with ``ours``.

    ``'detector.'`` is put before all names if theirs is ``'backbone.'`` and ours ``'detector.backbone.'``, and is taken away the other
    way round. If theirs is ``'encoder.'`` and ours ``'backbone.'``, only the backbone gets other names.
    """
    old, new = theirs.split('.')[:-1], ours.split('.')[:-1]
    pairs = [] if not old or not new or old[-1] == new[-1] else [(theirs, ours)]  # a backbone that is called otherwise
    old, new = (old[:-1], new[:-1]) if pairs else (old, new)
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    pairs.append(('.'.join([*old, '']), '.'.join([*new, ''])))

    def moved(name: str) -> str:
        return next((after + name[len(before):] for before, after in pairs if name.startswith(before)), name)

    return {name: moved(name) for name in names}


def _is_bare(names: Iterable[str], prefix: str) -> bool:
    """Whether this is the file of a backbone, or of a classifier as the authors save it: its head beside its stages."""
    return not prefix.endswith('backbone.') and (
        all(name.startswith(prefix) for name in names) or f'{prefix}head.weight' in names)


def _find_prefix(names: Iterable[str], prefix: Optional[str]) -> str:
    found = prefixes(names)
    if not found:
        raise CheckpointError(f"The file holds no SLaK: no key ends in '{STEM}'. Nothing was loaded. Its keys begin with "
                              f'{sorted({".".join(name.split(".")[:2]) for name in names})[:8]}.')
    matching = found
    if prefix and [name.rpartition('backbone.')[1] for name in found] != ['']:
        # a bare backbone is found whatever the prefix, as configs for converted files name one
        matching = [name for name in found if name.endswith(prefix)]
    if len(matching) != 1:
        raise CheckpointError(f'The file holds backbones under {found}; prefix={prefix!r} must name one of them.')
    return matching[0]
