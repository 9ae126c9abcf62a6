"""Whether weights fit the model that they are about to be loaded into. Refuses to load nothing, or half."""
import re
from itertools import chain
from typing import Dict

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..registry import MODELS
from ..sparsity.masks import Masks
from .file import CheckpointError
from .infer import infer_config
from .names import STEM, move, prefixes, rename, unwrapped
from .stem import STEMS
from .weights import check_weights

_STAGE = re.compile(r'(?:downsample_layers\.|stages\.|norm)(\d+)\.')
_OUTPUT_NORM = re.compile(r'norm\d*\.')


def backbones(model: nn.Module) -> Dict[str, nn.Module]:
    """Name and module of each SLaK in a model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MODELS.get('SLaK'))}


def adapt_state_dict(state_dict: Dict[str, Tensor], prefix: str, backbone) -> None:
    """Prepares, in place, a state dict that is about to be loaded into a SLaK: renames official keys, refuses what does not fit.

    Called by ``SLaK._load_from_state_dict``, whose argument it changes, as torch's loading hooks do.

    Args:
        state_dict (dict[str, Tensor]): Weights of the whole model.
        prefix (str): Prefix of the backbone's keys in it.
        backbone (SLaK): Where they go.

    Raises:
        CheckpointError: Nothing matches, or shapes or names differ: the message says which config lines to change. Or
            ``check_weights`` refuses them.
    """
    own = {name: value.shape for name, value in backbone.state_dict().items()}
    last = f'norm{len(backbone.depths) - 1}.'
    theirs, unbuilt = {}, set()
    for name, ours in rename(name for name in state_dict if name.startswith(prefix)).items():
        name, value = ours[len(prefix):], state_dict.pop(name)
        name = name if name in own else unwrapped(name)
        if name.startswith('norm.'):
            if not backbone.gap_before_final_norm:
                continue
            name = last + name[5:]
        stage = _STAGE.match(name)
        if stage and len(backbone.stages) <= int(stage[1]) < len(backbone.depths):
            unbuilt.add(int(stage[1]))
            continue
        state_dict[prefix + name] = value
        theirs[name] = value
    if unbuilt:
        print_log(f'The file has weights of stages {sorted(unbuilt)} (counted from 0), which no output of '
                  f'out_indices={backbone.out_indices} needs and the backbone has not: they are left out.', 'current')

    check_weights(theirs)
    if not own.keys() & theirs.keys():
        raise CheckpointError(
            f'Nothing in the file matches the backbone; nothing was loaded. Expected keys like {prefix + STEM!r}, got '
            f'{[*state_dict][:3]}. Load an official ImageNet file by the backbone\'s init_cfg=dict(type=\'Pretrained\', '
            'checkpoint=...), or convert it first with tools/convert_checkpoint.py.')
    optional = re.compile(rf'{_OUTPUT_NORM.pattern}|.*num_batches_tracked$')
    wrong = sorted(name for name in own.keys() | theirs.keys()
                   if not optional.match(name) and (name not in own or name not in theirs or own[name] != theirs[name].shape))
    wrong += [name for name in theirs if name in own and _OUTPUT_NORM.match(name) and own[name] != theirs[name].shape]
    if wrong:
        raise CheckpointError(f'The file does not fit the backbone; nothing was loaded. {_explain(wrong, theirs, backbone)}')
    for name, value in theirs.items():
        block, inside, _ = name.partition('.large_kernel.')
        if inside and name.endswith('.index') and not _names_channels(value, len(theirs[f'{block}.norm.weight'])):
            raise CheckpointError(f'{prefix + name} does not name channels, from 0 on and each once. Nothing was loaded. Take another '
                                  'checkpoint.')


def _names_channels(index: Tensor, channels: int) -> bool:
    return index.dtype == torch.int64 and bool((index[1:] > index[:-1]).all()) and 0 <= int(index[0]) <= int(index[-1]) < channels


def _explain(wrong, theirs, backbone) -> str:
    try:
        have, need = (infer_config(weights, backbone.arch_settings) for weights in (backbone.state_dict(), theirs))
    except CheckpointError:
        have = need = {}
    if need.get('out_indices', 3) < have.get('out_indices', 3):
        return (f'It has only the first {need["out_indices"] + 1} stages, as it was trained with such out_indices. Take a file that '
                f"has all, or set out_indices in the backbone's config to stages up to {need['out_indices']}, and heads that fit.")
    lines = [f'\n    {name}={need[name]!r},  # instead of {have.get(name, "the default")!r}' for name in need
             if need[name] != have.get(name)]
    lines += [f'\n    {name}=None,  # instead of {have[name]!r}, which slak_mm.deploy.compact leaves'
              for name in ('mlp_channels', 'filters') if name in have.keys() - need.keys()]
    if have.get('deploy') and not need.get('deploy'):
        lines.append('\n    deploy=False,  # instead of True; merge with switch_to_deploy() (tools/test.py --deploy) after loading')
    if need.get('in_channels') != have.get('in_channels'):
        lines.append(f"\nOr keep in_channels={have['in_channels']}, and say what becomes of the first convolution: "
                     f"init_cfg=dict(type='Pretrained', checkpoint=..., stem=...), or tools/train.py --pretrained CKPT --stem ..., "
                     f'with one of {STEMS}.')
    if lines:
        return f'To load it, set in the backbone\'s config:{"".join(lines)}'
    examples = ', '.join(wrong[:4])
    return f'{len(wrong)} weights are missing, unknown or of another shape: {examples}{" ..." if len(wrong) > 4 else ""}.'


def check_masks(checkpoint: dict) -> None:
    """Compares the masks that :class:`slak_mm.SparsityHook` saved, if there are any, with the weights in the same file.

    Raises:
        CheckpointError: They are not masks of these weights, or a weight that they mask is not zero.
    """
    try:
        masks = checkpoint.get('sparsity', {}).get('masks', {})
        # EMAHook saves the average as state_dict; what was trained, and is masked, is in ema_state_dict then
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


def match_names(state_dict: dict, model: nn.Module) -> None:
    """Gives weights, in place, the names that a model has for them, where they differ by wrappers or by where the backbone is."""
    own = {name for name, _ in chain(model.named_parameters(), model.named_buffers())}  # a state_dict would gather what FSDP spreads
    names = {name: name if name in own else unwrapped(name) for name in state_dict}
    theirs, ours = prefixes(names.values()), [f'{name}.' if name else '' for name in backbones(model)]
    if len(theirs) == len(ours) == 1 and unwrapped(theirs[0]) != unwrapped(ours[0]):
        moved = move(names.values(), theirs[0], ours[0])
        names = {name: moved[plain] for name, plain in names.items()}
    if len(set(names.values())) == len(names):
        weights = {names[name]: value for name, value in state_dict.items()}
        state_dict.clear()
        state_dict.update(weights)


def check_fits(state_dict: dict, model: nn.Module) -> None:
    """Refuses weights that would leave some of the model's at random; mmengine only warns. Their names become the model's, in place.

    Raises:
        CheckpointError: A weight of the model is not there, or has another shape.
    """
    match_names(state_dict, model)
    for name, module in backbones(model).items():
        adapt_state_dict(state_dict, f'{name}.' if name else '', module)
    own = {name: tuple(value.shape) for name, value in model.state_dict().items() if not name.endswith('num_batches_tracked')}
    missing = [name for name in own if name not in state_dict]
    if missing:
        raise CheckpointError(f'The checkpoint lacks {len(missing)} weights of the model, e.g. {missing[0]}: it is not one of this '
                              'config. Nothing was loaded.')
    wrong = [name for name, shape in own.items() if tuple(state_dict[name].shape) != shape]
    if wrong:
        raise CheckpointError(f'The checkpoint does not fit the config: {wrong[0]} is {tuple(state_dict[wrong[0]].shape)}, the model '
                              f'has {own[wrong[0]]}. Nothing was loaded.')
