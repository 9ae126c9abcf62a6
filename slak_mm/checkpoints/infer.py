"""Which SLaK a file holds."""
from itertools import chain
from typing import Dict, Optional

from torch import Tensor

from .file import CheckpointError
from .names import STEM

NUM_STAGES = 4


def infer_config(state_dict: Dict[str, Tensor], arch_settings: Optional[dict] = None) -> dict:
    """Reads the arguments of :class:`slak_mm.SLaK` that fit a file off the shapes of its weights.

    Args:
        state_dict (dict[str, Tensor]): A backbone's, in our names, without prefix.
        arch_settings (dict, optional): ``SLaK.arch_settings``, to give an arch its name.

    Returns:
        dict: ``out_indices`` (only if the last stages are not there: the last one that is), ``arch``, ``width_factor``,
        ``in_channels``, ``kernel_sizes``, ``small_kernel_size`` (unless naive),
        ``large_kernel`` (a tuple where stages differ), ``layer_scale_init_value`` (only if there is none: 0), ``mlp_channels``
        (only if they are not 4 times the channels), ``filters`` (only if some are left out) and ``deploy`` (only if True).

    Raises:
        CheckpointError: Weights are missing that every SLaK has, or have no such shape.
    """
    try:
        return _infer_config(state_dict, arch_settings or {})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'The weights are not those of a whole SLaK ({type(error).__name__}: {error}). Take a file that '
                              'is.') from None


def _infer_config(state_dict, arch_settings) -> dict:
    num_stages = next((i for i in range(1, NUM_STAGES) if f'downsample_layers.{i}.1.weight' not in state_dict), NUM_STAGES)
    depths = tuple(len({name.split('.')[2] for name in state_dict if name.startswith(f'stages.{i}.')}) for i in range(num_stages))
    widths = tuple(len(state_dict[f'downsample_layers.{i}.{min(i, 1)}.weight']) for i in range(num_stages))
    stages = []
    for i in range(num_stages):
        kernels, end = f'stages.{i}.0.large_kernel.', '.conv.weight'
        stages.append(_read_kernels({name[len(kernels):-len(end)]: tuple(value.shape[2:]) for name, value in state_dict.items()
                                     if name.startswith(kernels) and name.endswith(end)}))
    forms, longer, shorter_edges = zip(*stages)
    shorter = next((size for size in shorter_edges if size), None)
    # next to kernels with a small one, one that is no longer than it has none
    forms = tuple('reparam' if form == 'naive' and size == shorter else form for form, size in zip(forms, longer))
    missing = NUM_STAGES - num_stages  # whatever is written for these, they are not built
    forms, longer = forms + forms[-1:] * missing, longer + longer[-1:] * missing
    config = dict(zip(('arch', 'width_factor'), _name_arch(depths, widths, arch_settings)))
    if missing:
        config['out_indices'] = num_stages - 1
    config.update(in_channels=state_dict[STEM].shape[1], kernel_sizes=longer)
    if shorter is not None:
        config['small_kernel_size'] = shorter
    config['large_kernel'] = forms[0] if len(set(forms)) == 1 else forms
    if 'stages.0.0.gamma' not in state_dict:
        config['layer_scale_init_value'] = 0.
    hidden = tuple(tuple(_hidden_units(state_dict, f'stages.{i}.{j}', width) for j in range(depth))
                   for i, (depth, width) in enumerate(zip(depths, widths)))
    if any(value != 4 * width for width, values in zip(widths, hidden) for value in values):
        config['mlp_channels'] = hidden + (None, ) * missing
    filters = tuple(tuple(_filters(state_dict, f'stages.{i}.{j}.large_kernel.') for j in range(depth))
                    for i, depth in enumerate(depths))
    if any(chain.from_iterable(filters)):
        config['filters'] = filters + (None, ) * missing
    if not any('.bn.' in name for name in state_dict):
        config['deploy'] = True
    return config


def _hidden_units(state_dict, block, width):
    """Number of hidden units of an MLP; the usual one where its weights do not agree, which is refused by their names."""
    rows, bias, columns = (tuple(state_dict[f'{block}.{name}'].shape) for name in ('pwconv1.weight', 'pwconv1.bias', 'pwconv2.weight'))
    return bias[0] if (rows, columns) == ((*bias, width), (width, *bias)) else 4 * width


def _filters(state_dict, prefix):
    """Number of filters of each convolution that has an ``index`` of its channels."""
    found = {name[len(prefix):]: value for name, value in state_dict.items() if name.startswith(prefix)}
    return {name[:-len('.index')]: len(value) for name, value in found.items() if name.endswith('.index')}


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
            built = zip(arch['depths'], (int(c * factor) for c in arch['channels']))
            if all(pair == own for pair, own in zip(built, zip(depths, widths))):
                return name, factor
    missing = NUM_STAGES - len(depths)
    return dict(depths=depths + depths[-1:] * missing, channels=widths + widths[-1:] * missing), 1.
