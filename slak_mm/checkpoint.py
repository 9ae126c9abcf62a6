"""Official SLaK files, and any other, to the names of :class:`slak_mm.models.SLaK`. Refuses to load nothing, or half."""
import re
from collections import OrderedDict
from typing import Dict, Iterable, Optional

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .checkpoint_file import CheckpointError, load_file, named
from .sparsity.masks import Masks

# One table: how the authors name the branches of a large-kernel layer, over the years, and how we do.
OFFICIAL_NAMES = dict(LoRA1='tall', LoRA2='wide', Decom1='tall', Decom2='wide', small_conv='small', lkb_origin='full',
                      lkb_reparam='full.conv')
_OFFICIAL_NAME = re.compile(rf'(?<=\blarge_kernel\.)({"|".join(OFFICIAL_NAMES)})(?=\.)')
_STEM = 'downsample_layers.0.0.weight'  # every file of a SLaK has this key, so what stands before it is the prefix
_OUTPUT_NORM = re.compile(r'norm\d*\.')
_REAL = re.compile(r'(^|\.)(weight|bias|gamma|running_mean|running_var)$')
_DTYPES = torch.float64, torch.float32, torch.float16, torch.bfloat16
SCHEME = 'slak_mm://'


def _is_state_dict(value) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())


def select_state_dict(checkpoint: dict, key: Optional[str] = None) -> Dict[str, Tensor]:
    """The weights in a loaded file: its entry ``key``; by default ``state_dict``, else ``model``, else the file itself.

    Raises:
        CheckpointError: There is none; the message lists the keys that hold weights. Or :func:`check_weights` refuses them.
    """
    choices = [name for name, value in checkpoint.items() if _is_state_dict(value)]
    if key is None:
        key = next((name for name in ('state_dict', 'model') if name in choices), None)
        if key is None and _is_state_dict(checkpoint):
            return check_weights(checkpoint)
    if key not in choices:
        raise CheckpointError(f'The file has no weights under key={key!r}; it has some under {choices}.' if key else
                              f'The file has weights neither at its top level nor under state_dict or model; key= may name one '
                              f'of {choices}.')
    return check_weights(checkpoint[key])


def check_weights(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Returns its argument, if its names are strings, and its tensors finite, real numbers where a network has such.

    Raises:
        CheckpointError: They are not; the message names the first one.
    """
    for name, value in state_dict.items():
        fault = None
        if not isinstance(name, str):
            fault = 'is no name of a weight'
        elif _REAL.search(name) and getattr(value, 'dtype', None) not in _DTYPES:
            fault = f'is of type {getattr(value, "dtype", type(value).__name__)}, not float'
        elif isinstance(value, Tensor) and not value.isfinite().all():
            fault = 'has values that are NaN or infinite: the training that wrote it had diverged, or the file is damaged'
        if fault:
            raise CheckpointError(f'{name!r} {fault}. Nothing was loaded. Take another checkpoint.')
    return state_dict


def _rename(names: Iterable[str]) -> Dict[str, str]:
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
    found = [name[:-len(_STEM)] for name in state_dict if name.endswith(_STEM)]
    if not found:
        raise CheckpointError(f"The file holds no SLaK: no key ends in '{_STEM}'. Nothing was loaded. Its keys begin with "
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
    for theirs, name in _rename(name for name in state_dict if name.startswith(root)).items():
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


def infer_config(state_dict: Dict[str, Tensor], arch_settings: Optional[dict] = None) -> dict:
    """Reads the arguments of :class:`slak_mm.models.SLaK` that fit a file off the shapes of its weights.

    Args:
        state_dict (dict[str, Tensor]): A backbone's, in our names, without prefix.
        arch_settings (dict, optional): ``SLaK.arch_settings``, to give an arch its name.

    Returns:
        dict: ``arch``, ``width_factor``, ``in_channels``, ``kernel_sizes``, ``small_kernel_size`` (unless naive),
        ``large_kernel`` (a tuple where stages differ), ``layer_scale_init_value`` (only if there is none: 0) and ``deploy`` (only if
        True).

    Raises:
        CheckpointError: Weights are missing that every SLaK has, or have no such shape.
    """
    try:
        return _infer_config(state_dict, arch_settings or {})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'The weights are not those of a whole SLaK ({type(error).__name__}: {error}). Take a file that '
                              'is.') from None


def _infer_config(state_dict, arch_settings) -> dict:
    depths = tuple(len({name.split('.')[2] for name in state_dict if name.startswith(f'stages.{i}.')}) for i in range(4))
    widths = tuple(len(state_dict[f'downsample_layers.{i}.{min(i, 1)}.weight']) for i in range(4))
    stages = []
    for i in range(4):
        kernels, end = f'stages.{i}.0.large_kernel.', '.conv.weight'
        stages.append(_read_kernels({name[len(kernels):-len(end)]: tuple(value.shape[2:]) for name, value in state_dict.items()
                                     if name.startswith(kernels) and name.endswith(end)}))
    forms, longer, shorter_edges = zip(*stages)
    shorter = next((size for size in shorter_edges if size), None)
    # beside kernels with a small one, one that is no longer than it has none
    forms = tuple('reparam' if form == 'naive' and size == shorter else form for form, size in zip(forms, longer))
    config = dict(zip(('arch', 'width_factor'), _name_arch(depths, widths, arch_settings)))
    config.update(in_channels=state_dict[_STEM].shape[1], kernel_sizes=longer)
    if shorter is not None:
        config['small_kernel_size'] = shorter
    config['large_kernel'] = forms[0] if len(set(forms)) == 1 else forms
    if 'stages.0.0.gamma' not in state_dict:
        config['layer_scale_init_value'] = 0.
    if not any('.bn.' in name for name in state_dict):
        config['deploy'] = True
    return config


def _read_kernels(shapes):
    """Form, M and N (None if there is nothing to tell) of a layer, the inverse of ``branch_shapes``."""
    small = shapes.get('small', (None, ))[0]
    if 'tall' in shapes:
        return 'decomposed', *shapes['tall']
    if 'dilated' in shapes:
        size = shapes['dilated'][0]
        return 'dilated', size, small or 3 * size - 2
    steps = [shape for name, shape in shapes.items() if name.startswith('sequence.')]
    if not steps:
        return 'naive' if small is None else 'reparam', shapes['full'][0], small
    if set(steps) == {(3, 3)}:
        size = 2 * len(steps) + 1
        return 'stacked', size, small or size
    return 'sequential', *steps[0]


def _name_arch(depths, widths, arch_settings):
    for factor in (1.3, 1., *(i / 20 for i in range(2, 81))):
        for name, arch in arch_settings.items():
            if arch['depths'] == depths and tuple(int(c * factor) for c in arch['channels']) == widths:
                return name, factor
    return dict(depths=depths, channels=widths), 1.


def adapt_state_dict(state_dict: Dict[str, Tensor], prefix: str, backbone) -> None:
    """Prepares, in place, a state dict that is about to be loaded into a SLaK: renames official keys, refuses what does not fit.

    Called by ``SLaK._load_from_state_dict``, whose argument it changes, as torch's loading hooks do.

    Args:
        state_dict (dict[str, Tensor]): Weights of the whole model.
        prefix (str): Prefix of the backbone's keys in it.
        backbone (SLaK): Where they go.

    Raises:
        CheckpointError: Nothing matches, or shapes or names differ: the message says which config lines to change. Or
            :func:`check_weights` refuses them.
    """
    own = {name: value.shape for name, value in backbone.state_dict().items()}
    last = f'norm{len(backbone.depths) - 1}.'
    theirs = {}
    for name, ours in _rename(name for name in state_dict if name.startswith(prefix)).items():
        name, value = ours[len(prefix):], state_dict.pop(name)
        if name.startswith('norm.'):
            if not backbone.gap_before_final_norm:
                continue
            name = last + name[5:]
        state_dict[prefix + name] = value
        theirs[name] = value

    check_weights(theirs)
    if not own.keys() & theirs.keys():
        raise CheckpointError(
            f'Nothing in the file matches the backbone; nothing was loaded. Expected keys like {prefix + _STEM!r}, got '
            f'{[*state_dict][:3]}. Load an official ImageNet file by the backbone\'s init_cfg=dict(type=\'Pretrained\', '
            'checkpoint=...), or convert it first with tools/convert_checkpoint.py.')
    optional = re.compile(rf'{_OUTPUT_NORM.pattern}|.*num_batches_tracked$')
    wrong = sorted(name for name in own.keys() | theirs.keys()
                   if not optional.match(name) and (name not in own or name not in theirs or own[name] != theirs[name].shape))
    wrong += [name for name in theirs if name in own and _OUTPUT_NORM.match(name) and own[name] != theirs[name].shape]
    if wrong:
        raise CheckpointError(f'The file does not fit the backbone; nothing was loaded. {_explain(wrong, theirs, backbone)}')


def _explain(wrong, theirs, backbone) -> str:
    try:
        have, need = (infer_config(weights, backbone.arch_settings) for weights in (backbone.state_dict(), theirs))
    except CheckpointError:
        have = need = {}
    lines = [f'\n    {name}={need[name]!r},  # instead of {have.get(name, "the default")!r}' for name in need
             if need[name] != have.get(name)]
    if have.get('deploy') and not need.get('deploy'):
        lines.append('\n    deploy=False,  # instead of True; merge with switch_to_deploy() (tools/test.py --deploy) after loading')
    if lines:
        return f'To load it, set in the backbone\'s config:{"".join(lines)}'
    examples = ', '.join(wrong[:4])
    return f'{len(wrong)} weights are missing, unknown or of another shape: {examples}{" ..." if len(wrong) > 4 else ""}.'


def check_masks(checkpoint: dict) -> None:
    """Compares the masks that :class:`slak_mm.SparsityHook` saved, if there are any, with the weights beside them.

    Raises:
        CheckpointError: They are not masks of these weights, or a weight that they mask is not zero.
    """
    try:
        masks = checkpoint.get('sparsity', {}).get('masks', {})
        # EMAHook saves the average as state_dict; what was trained, and is masked, is beside it then
        weights = {**checkpoint['state_dict'], **{name.partition('module.')[2]: value for name, value
                                                  in checkpoint.get('ema_state_dict', {}).items()}}
        held = Masks({name: weights[name] for name in masks})
        held.load_state_dict(masks)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'The masks in the file are not those of its weights ({error}). Nothing was loaded. Take another '
                              'checkpoint.') from None
    stray = [name for name, mask in held.active.items() if held.params[name][~mask].any()]
    if stray:
        raise CheckpointError(f'The masks in the file are not those of its weights: {stray[0]} is not zero where it is masked, and '
                              f'{len(stray) - 1} others. Nothing was loaded. Take another checkpoint.')


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_slak_mm(filename: str, map_location='cpu') -> dict:
    """``load_from='slak_mm://PATH_OR_URL'``: any file that ``init_cfg`` takes, for a whole model, as mmengine wants it.

    Left out are the texts of configs in mmengine's own files: it runs them, one on resuming, one in an inferencer without a config.

    Raises:
        CheckpointError: See :func:`load_file`, :func:`select_state_dict`, :func:`convert_state_dict` and :func:`check_masks`.
    """
    path = filename[len(SCHEME):]
    with named(path):
        checkpoint = load_file(path, map_location)
        state_dict = select_state_dict(checkpoint)
        if 'message_hub' not in checkpoint:  # not mmengine's own
            return dict(meta={}, state_dict=convert_state_dict(state_dict))
        check_masks(checkpoint)
        return dict(checkpoint, state_dict=state_dict, **_without_configs(checkpoint))


def _without_configs(checkpoint: dict) -> dict:
    try:
        meta, hub = dict(checkpoint.get('meta', {})), dict(checkpoint['message_hub'])
        meta.pop('config', None)
        for part in hub.keys() & {'runtime_info', 'resumed_keys'}:
            hub[part] = {key: value for key, value in hub[part].items() if key != 'cfg'}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'This is no checkpoint as mmengine saves it ({type(error).__name__}: {error}). Nothing was loaded. '
                              'Take another checkpoint.') from None
    return dict(meta=meta, message_hub=hub)
