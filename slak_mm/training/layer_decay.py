from typing import Dict, List, Tuple

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..models.wrappers import unwrap
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, register

_ALLOWED = ('decay_rate', 'decay_type', 'num_layers')


@register(OPTIM_WRAPPER_CONSTRUCTORS)
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that shrink towards the stem, in mmpretrain, mmdet and mmsegmentation alike.

    A parameter of layer ``id`` learns at ``lr * decay_rate ** (num_layers + 1 - id)``; 1-D parameters and biases have no weight
    decay. Ids follow ConvNeXt's fine-tuning, which the paper uses (appendix A):

    - ``layer_wise``: the backbone's ``get_layer_depth``.
    - ``stage_wise``: 0 for every downsampling layer, s + 1 for stage s, ``num_layers + 1`` for everything else.

    Args:
        optim_wrapper_cfg (dict): As in mmengine.
        paramwise_cfg (dict): ``decay_rate`` (float), ``decay_type`` (``'layer_wise'`` or ``'stage_wise'``; defaults to
            'layer_wise') and ``num_layers`` (int; defaults to the backbone's own: 6 for tiny, 12 for the larger).

    Raises:
        ValueError: Another option, or ``num_layers`` that is not the backbone's.
        TypeError: The backbone has no ``get_layer_depth``.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        unknown = set(self.paramwise_cfg) - set(_ALLOWED)
        if unknown or 'decay_rate' not in self.paramwise_cfg:
            raise ValueError(f'paramwise_cfg must have decay_rate and may have {_ALLOWED[1:]}; got {dict(self.paramwise_cfg)}.')
        decay_type = self.paramwise_cfg.get('decay_type', 'layer_wise')
        if decay_type not in ('layer_wise', 'stage_wise'):
            raise ValueError(f"decay_type must be 'layer_wise' or 'stage_wise', got {decay_type!r}.")
        if self.base_lr is None or self.base_wd is None:
            raise ValueError('Layer decay needs lr and weight_decay in the config of the optimizer.')

    def add_params(self, params: List[dict], module: nn.Module, **kwargs) -> None:
        """Appends to ``params`` one group for each layer id, with and without weight decay."""
        model = unwrap(module)
        backbone, prefix = (model.backbone, 'backbone.') if hasattr(model, 'backbone') else (model, '')
        if not hasattr(backbone, 'get_layer_depth'):
            raise TypeError(f'{type(backbone).__name__} has no get_layer_depth(param_name, prefix), which layer decay needs.')
        decay_rate = self.paramwise_cfg['decay_rate']
        decay_type = self.paramwise_cfg.get('decay_type', 'layer_wise')
        num_layers = backbone.get_layer_depth('', prefix)[1] - 2
        if self.paramwise_cfg.get('num_layers', num_layers) != num_layers:
            raise ValueError(f"num_layers={self.paramwise_cfg['num_layers']} does not fit the backbone: set num_layers={num_layers}.")

        groups: Dict[Tuple[int, bool], dict] = {}
        for name, param in model.named_parameters():
            if not param.requires_grad:
                continue
            if decay_type == 'layer_wise':
                layer_id = backbone.get_layer_depth(name, prefix)[0]
            else:
                layer_id = self._get_stage_id(name[len(prefix):] if name.startswith(prefix) else '', num_layers)
            decays = param.ndim > 1 and not name.endswith('.bias')
            scale = decay_rate**(num_layers + 1 - layer_id)
            group = groups.setdefault((layer_id, decays), dict(
                params=[],
                param_names=[],
                lr=self.base_lr * scale,
                lr_scale=scale,
                weight_decay=self.base_wd if decays else 0.,
                group_name=f'layer_{layer_id}_{"decay" if decays else "no_decay"}'))
            group['params'].append(param)
            group['param_names'].append(name)
        params.extend(groups[key] for key in sorted(groups))

        scales = {layer_id: f'{decay_rate**(num_layers + 1 - layer_id):.4g}' for layer_id, _ in sorted(groups)}
        print_log(f'{type(self).__name__}: {decay_type}, decay_rate {decay_rate}, num_layers {num_layers}; '
                  f'{sum(len(group["params"]) for group in params)} parameters in {len(params)} groups; lr_scale by layer id: '
                  + ', '.join(f'{layer_id}: {scale}' for layer_id, scale in scales.items()), logger='current')

    @staticmethod
    def _get_stage_id(name: str, num_layers: int) -> int:
        if name.startswith('downsample_layers.'):
            return 0
        if name.startswith('stages.'):
            return int(name.split('.')[1]) + 1
        return num_layers + 1
