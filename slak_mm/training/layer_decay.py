import logging
import math
import numbers
from typing import Any, Dict, List

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..models.backbones import find_modules
from ..models.build import quiet
from ..models.wrappers import unwrap
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, register

OWN = 'decay_rate', 'decay_type', 'num_layers'
MMENGINES = ('custom_keys', 'norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult', 'bias_lr_mult',
             'dcn_offset_lr_mult', 'bypass_duplicate')
NO_DECAY = dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.)


@register(OPTIM_WRAPPER_CONSTRUCTORS)
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that shrink towards the stem, in mmpretrain, mmdet and mmsegmentation alike.

    A parameter of layer ``id`` learns at ``lr * decay_rate ** (num_layers + 1 - id)``; norms, biases and other 1-D parameters have no
    weight decay, nor have embeddings outside the backbone (the queries and levels of Mask2Former, 2-D). Ids follow ConvNeXt's
    fine-tuning, which the paper uses (appendix A):

    - ``layer_wise``: the backbone's ``get_layer_depth``.
    - ``stage_wise``: 0 for every downsampling layer, s + 1 for stage s, ``num_layers + 1`` for everything else.

    The backbone is the part of the model that has ``get_layer_depth``, wherever it is; of several, as a student's and its teacher's,
    each is treated so. What mmengine's own constructor takes goes before the rules above: ``lr_mult`` of ``custom_keys`` multiplies
    the layer's rate, ``decay_mult`` replaces the rule for weight decay.

    Args:
        optim_wrapper_cfg (dict): As in mmengine.
        paramwise_cfg (dict): ``decay_rate`` (float), ``decay_type`` (``'layer_wise'`` or ``'stage_wise'``; defaults to
            'layer_wise') and ``num_layers`` (int; defaults to the backbone's own: 6 for tiny, 12 for the larger); also
            ``custom_keys``, ``norm_decay_mult``, ``bias_decay_mult``, ``flat_decay_mult`` (these three are 0 by default) and all
            others of mmengine's ``DefaultOptimWrapperConstructor``.

    Raises:
        ValueError: Another option, or ``num_layers`` that is not the backbone's.
        TypeError: No part of the model has ``get_layer_depth``.
    """

    paramwise_cfg: Dict[str, Any]

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        unknown = set(self.paramwise_cfg) - {*OWN, *MMENGINES}
        if unknown or 'decay_rate' not in self.paramwise_cfg:
            raise ValueError(f'paramwise_cfg must have decay_rate and may have {OWN[1:] + MMENGINES}; got {dict(self.paramwise_cfg)}.')
        decay_rate: Any = self.paramwise_cfg['decay_rate']
        if isinstance(decay_rate, bool) or not isinstance(decay_rate, numbers.Real) or not 0 < float(decay_rate) < math.inf:
            raise ValueError(f'decay_rate must be a positive number, got {decay_rate!r}.')
        decay_type = self.paramwise_cfg.get('decay_type', 'layer_wise')
        if decay_type not in ('layer_wise', 'stage_wise'):
            raise ValueError(f"decay_type must be 'layer_wise' or 'stage_wise', got {decay_type!r}.")
        if self.base_lr is None or self.base_wd is None:
            raise ValueError('Layer decay needs lr and weight_decay in the config of the optimizer.')
        self._options: Dict[str, Any] = dict(decay_rate=float(decay_rate), decay_type=decay_type,
                                             num_layers=self.paramwise_cfg.get('num_layers'))
        self.paramwise_cfg = {**NO_DECAY, **{key: value for key, value in self.paramwise_cfg.items() if key not in OWN}}

    def add_params(self, params: List[dict], module: nn.Module, prefix: str = '', is_dcn_module=None) -> None:
        """Appends to ``params`` a group for each layer id, and for each setting of learning rate and weight decay in it."""
        if prefix:  # mmengine's, of a part of the model
            return super().add_params(params, module, prefix, is_dcn_module)
        model = unwrap(module)
        backbones = find_modules(model, lambda name, part: hasattr(part, 'get_layer_depth'))
        if not backbones:
            raise TypeError(f'{type(model).__name__} has no part with get_layer_depth(param_name, prefix), which layer decay needs.')
        num_layers = {name: self._num_layers(name, backbone) for name, backbone in backbones.items()}
        custom_keys = self.paramwise_cfg.get('custom_keys', {})
        names = {param: name for name, param in model.named_parameters()}
        embeddings = {part.weight for name, part in model.named_modules() if isinstance(part, nn.Embedding)
                      and not any(f'{name}.'.startswith(f'{backbone}.') for backbone in backbones if backbone)}
        unused = [key for key in custom_keys if not any(key in name for name in names.values())]
        if unused:
            print_log(f'{type(self).__name__}: no parameter has {", ".join(unused)} in its name: these custom_keys do nothing.',
                      'current', logging.WARNING)

        single: List[dict] = []
        with quiet():  # a line for each option of each parameter
            super().add_params(single, model)
        groups: Dict[tuple, dict] = {}
        for group in single:
            param, = group['params']
            name = names.pop(param, None)
            if name is None:  # another name of a parameter that is there already
                continue
            decays = dict(weight_decay=0.) if param in embeddings and not any(key in name for key in custom_keys) else {}
            settings = {**dict(lr=self.base_lr, weight_decay=self.base_wd), **group, **decays}
            del settings['params']
            away, layer_id = self._layer_of(name, backbones, num_layers)
            key = (-away, layer_id, settings['weight_decay'] > 0, repr(sorted(settings.items())))
            scale = self._options['decay_rate']**away
            merged = groups.setdefault(key, dict(
                settings, params=[], param_names=[], lr=settings['lr'] * scale, lr_scale=scale,
                group_name=f'layer_{layer_id}_{"decay" if settings["weight_decay"] > 0 else "no_decay"}'))
            merged['params'].append(param)
            merged['param_names'].append(name)
        params.extend(groups[key] for key in sorted(groups))

        scales = {group['group_name'].split('_')[1]: f'{group["lr_scale"]:.4g}' for group in params}
        print_log(f'{type(self).__name__}: {self._options["decay_type"]}, decay_rate {self._options["decay_rate"]}, num_layers '
                  f'{", ".join(map(str, dict.fromkeys(num_layers.values())))}; {sum(len(group["params"]) for group in params)} '
                  f'parameters in {len(params)} groups; lr_scale by layer id: '
                  + ', '.join(f'{layer_id}: {scale}' for layer_id, scale in scales.items()), logger='current')

    def _num_layers(self, name: str, backbone: Any) -> int:
        num_layers = backbone.get_layer_depth('', f'{name}.' if name else '')[1] - 2
        if self._options['num_layers'] not in (None, num_layers):
            raise ValueError(f"num_layers={self._options['num_layers']} does not fit the backbone: set num_layers={num_layers}.")
        return num_layers

    def _layer_of(self, name: str, backbones: Dict[str, Any], num_layers: Dict[str, int]) -> tuple:
        """How many layers a parameter is away from the head, and its layer id."""
        for backbone, module in backbones.items():
            prefix = f'{backbone}.' if backbone else ''
            if name.startswith(prefix):
                last = num_layers[backbone] + 1
                if self._options['decay_type'] == 'layer_wise':
                    layer_id = module.get_layer_depth(name, prefix)[0]
                else:
                    layer_id = self._get_stage_id(name[len(prefix):], num_layers[backbone])
                return last - layer_id, layer_id
        return 0, max(num_layers.values()) + 1

    @staticmethod
    def _get_stage_id(name: str, num_layers: int) -> int:
        if name.startswith('downsample_layers.'):
            return 0
        if name.startswith('stages.'):
            return int(name.split('.')[1]) + 1
        return num_layers + 1
