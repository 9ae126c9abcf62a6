"""The names of official SLaK files, and of any other, to those of :class:`slak_mm.SLaK`."""
import re
from collections import OrderedDict
from typing import Dict, Iterable, Optional

from torch import Tensor

from .file import CheckpointError

# One table: how the authors name the branches of a large-kernel layer, over the years, and how we do.
OFFICIAL_NAMES = dict(LoRA1='tall', LoRA2='wide', Decom1='tall', Decom2='wide', small_conv='small', lkb_origin='full',
                      lkb_reparam='full.conv')
_OFFICIAL_NAME = re.compile(rf'(?<=\blarge_kernel\.)({"|".join(OFFICIAL_NAMES)})(?=\.)')
STEM = 'downsample_layers.0.0.weight'  # every file of a SLaK has this key, so what stands before it is the prefix


def rename(names: Iterable[str]) -> Dict[str, str]:
    """The authors' names to ours."""
    ours = {name: _OFFICIAL_NAME.sub(lambda match: OFFICIAL_NAMES[match[0]], name) for name in names}
    if len(set(ours.values())) < len(ours):
        twice = sorted(name for name, own in ours.items() if list(ours.values()).count(own) > 1)
        raise CheckpointError(f'The file holds one weight under two names: {", ".join(twice[:2])}. Nothing was loaded. Remove one.')
    return ours


def convert_state_dict(state_dict: Dict[str, Tensor], prefix: Optional[str] = None) -> Dict[str, Tensor]:
    """Renames the weights of any SLaK file to those of a whole OpenMMLab model: ``backbone.*``, ``head.fc.*``, ``decode_head.*`` ...

    A classifier's output norm is ``backbone.norm`` in the result: only a backbone that pools before its norm has a place for it
    (:func:`adapt_state_dict`).

    Args:
        state_dict (dict[str, Tensor]): From an official ImageNet file, an mmcv-1 downstream file, or mmengine.
        prefix (str, optional): What stands before the backbone's keys. Only needed if the file holds several backbones.

    Raises:
        CheckpointError: The file holds no SLaK, or several and ``prefix`` names none, or a weight under two names.
    """
    found = [name[:-len(STEM)] for name in state_dict if name.endswith(STEM)]
    if not found:
        raise CheckpointError(f"The file holds no SLaK: no key ends in '{STEM}'. Nothing was loaded. Its keys begin with "
                              f'{sorted({".".join(name.split(".")[:2]) for name in state_dict})[:8]}.')
    matching = found
    if prefix and [name.rpartition('backbone.')[1] for name in found] != ['']:
        # a bare backbone is found whatever the prefix, as configs for converted files name one
        matching = [name for name in found if name.endswith(prefix.rstrip('.') + '.')]
    if len(matching) != 1:
        raise CheckpointError(f'The file holds backbones under {found}; prefix={prefix!r} must name one of them.')
    prefix = matching[0]
    bare = not prefix.endswith('backbone.')
    root = prefix if bare else prefix[:-len('backbone.')]

    converted = OrderedDict()
    for theirs, name in rename(name for name in state_dict if name.startswith(root)).items():
        name, value = name[len(root):], state_dict[theirs]
        if not isinstance(value, Tensor):
            continue
        if bare:
            name = f'head.fc.{name[5:]}' if name.startswith('head.') else f'backbone.{name}'
        converted[name] = value
    norms = {name.split('.')[1] for name in converted if name.startswith('backbone.norm')}
    if 'head.fc.weight' in converted and len(norms) == 1:
        norm = f'backbone.{norms.pop()}.'
        converted = OrderedDict((name.replace(norm, 'backbone.norm.'), value) for name, value in converted.items())
    return converted
