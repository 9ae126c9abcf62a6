"""Official SLaK files, and any other, to the names of :class:`slak_mm.models.SLaK`. Refuses to load nothing, or half.

Everything but :func:`load_file` is a pure function of a state dict.
"""
import hashlib
import os
import pickle
import re
from collections import OrderedDict
from typing import Dict, Optional
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .compat import load_weights_only

# One table: how the authors name the branches of a large-kernel layer, over the years, and how we do.
OFFICIAL_NAMES = dict(LoRA1='tall', LoRA2='wide', Decom1='tall', Decom2='wide', small_conv='small', lkb_origin='full',
                      lkb_reparam='full.conv')
_OFFICIAL_NAME = re.compile(rf'(?<=\.large_kernel\.)({"|".join(OFFICIAL_NAMES)})(?=\.)')
_STEM = 'downsample_layers.0.0.weight'  # every file of a SLaK has this key, so what stands before it is the prefix
_OUTPUT_NORM = re.compile(r'norm\d*\.')
SCHEME = 'slak_mm://'


class CheckpointError(RuntimeError):
    """A file that cannot be loaded, or does not fit. Nothing was loaded."""


def download(url: str) -> str:
    """Downloads a file once and returns where it lies in ``torch.hub``'s folder.

    The name is made of the whole URL: the official links all end in the same word, and must not share one file.
    """
    name = os.path.basename(urlparse(url).path) or 'checkpoint'
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, f'{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}')
    if is_main_process() and not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        print_log(f'Downloads {url} to {path}', logger='current')
        try:
            torch.hub.download_url_to_file(url, path)
        except OSError as error:
            raise CheckpointError(f'{url} cannot be downloaded ({error}). Download it by other means and give its path.') from error
    barrier()
    return path


def load_file(path: str, map_location='cpu') -> dict:
    """Reads a checkpoint without running anything that it holds.

    Args:
        path (str): A path or an http(s) URL.
        map_location: As for ``torch.load``. Defaults to 'cpu'.

    Returns:
        dict: What the file holds.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: It is not a checkpoint, is cut short, or asks to run code.
    """
    source = path
    if path.startswith(('http://', 'https://')):
        path = download(path)
        source = f'{source} (kept as {path}; delete that to download it again)'
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path} is not there. README.md says where the official files are.')
    try:
        checkpoint = load_weights_only(path, map_location)
    except Exception as error:  # torch raises a dozen types for a bad file
        message = str(error)
        if isinstance(error, pickle.UnpicklingError) and 'global' in message.lower():
            name = re.search(r'GLOBAL (\S+)', message)
            raise CheckpointError(
                f'{source} is refused: besides weights it holds code or objects{f" ({name[1]})" if name else ""} that would run on '
                'loading. Nothing was run. If you trust whoever made it, save its state_dict alone and load that.') from None
        raise CheckpointError(f'{source} cannot be read: it is cut short or is not a PyTorch checkpoint '
                              f'({type(error).__name__}: {message.splitlines()[0] if message else "no details"}). '
                              'Compare its size with the original and copy or download it again.') from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{source} holds a {type(checkpoint).__name__}, not a dict of weights.')
    return checkpoint


def _is_state_dict(value) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())


def select_state_dict(checkpoint: dict, key: Optional[str] = None) -> Dict[str, Tensor]:
    """The weights in a loaded file: its entry ``key``; by default ``state_dict``, else ``model``, else the file itself.

    Raises:
        CheckpointError: There is none; the message lists the keys that hold weights.
    """
    choices = [name for name, value in checkpoint.items() if _is_state_dict(value)]
    if key is None:
        key = next((name for name in ('state_dict', 'model') if name in choices), None)
        if key is None and _is_state_dict(checkpoint):
            return checkpoint
    if key not in choices:
        raise CheckpointError(f'The file has no weights under key={key!r}; it has some under {choices}.' if key else
                              f'The file has weights neither at its top level nor under state_dict or model; key= may name one '
                              f'of {choices}.')
    return checkpoint[key]


def convert_state_dict(state_dict: Dict[str, Tensor], prefix: Optional[str] = None) -> Dict[str, Tensor]:
    """Renames the weights of any SLaK file to those of a whole OpenMMLab model: ``backbone.*``, ``head.fc.*``, ``decode_head.*`` ...

    A classifier's output norm is ``backbone.norm`` in the result: only a backbone that pools before its norm has a place for it
    (:func:`adapt_state_dict`).

    Args:
        state_dict (dict[str, Tensor]): From an official ImageNet file, an mmcv-1 downstream file, or mmengine.
        prefix (str, optional): What stands before the backbone's keys. Only needed if the file holds several backbones.

    Raises:
        CheckpointError: The file holds no SLaK, or several and ``prefix`` names none.
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
    for name, value in state_dict.items():
        if not name.startswith(root) or not isinstance(value, Tensor):
            continue
        name = _OFFICIAL_NAME.sub(lambda match: OFFICIAL_NAMES[match[0]], name[len(root):])
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
        KeyError: Weights are missing that every SLaK has.
    """
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
    config = dict(zip(('arch', 'width_factor'), _name_arch(depths, widths, arch_settings or {})))
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
        CheckpointError: Nothing matches, or shapes or names differ: the message says which config lines to change.
    """
    own = {name: value.shape for name, value in backbone.state_dict().items()}
    last = f'norm{len(backbone.depths) - 1}.'
    theirs = {}
    for name in [name for name in state_dict if name.startswith(prefix)]:
        value = state_dict.pop(name)
        name = _OFFICIAL_NAME.sub(lambda match: OFFICIAL_NAMES[match[0]], name[len(prefix):])
        if name.startswith('norm.'):
            if not backbone.gap_before_final_norm:
                continue
            name = last + name[5:]
        state_dict[prefix + name] = value
        theirs[name] = value

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
    except KeyError:
        have = need = {}
    lines = [f'\n    {name}={need[name]!r},  # instead of {have.get(name, "the default")!r}' for name in need
             if need[name] != have.get(name)]
    if have.get('deploy') and not need.get('deploy'):
        lines.append('\n    deploy=False,  # instead of True; merge with switch_to_deploy() (tools/test.py --deploy) after loading')
    if lines:
        return f'To load it, set in the backbone\'s config:{"".join(lines)}'
    examples = ', '.join(wrong[:4])
    return f'{len(wrong)} weights are missing, unknown or of another shape: {examples}{" ..." if len(wrong) > 4 else ""}.'


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_slak_mm(filename: str, map_location='cpu') -> dict:
    """``load_from='slak_mm://PATH_OR_URL'``: any file that ``init_cfg`` takes, for a whole model, as mmengine wants it."""
    checkpoint = dict(load_file(filename[len(SCHEME):], map_location))
    state_dict = select_state_dict(checkpoint)
    if 'message_hub' not in checkpoint:  # not mmengine's own
        checkpoint = dict(meta={})
        state_dict = convert_state_dict(state_dict)
    return dict(checkpoint, state_dict=state_dict)
