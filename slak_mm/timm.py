"""SLaK in timm: ``import slak_mm.timm`` registers slak_tiny, slak_small, slak_base and slak_large. Needs timm 1.0 or newer.

For example ``timm.create_model('slak_tiny', features_only=True)``. ``checkpoint_path`` takes official ImageNet files.
"""
import argparse
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import NormMlpClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices  # as every model of timm has it
from torch import Tensor, nn

from .models.slak import SLaK as Backbone
from .models.slak import SLaKBlock

# official names of the head, and what they are called here
HEAD = {'norm.': 'head.norm.', 'norm3.': 'head.norm.', 'head.weight': 'head.fc.weight', 'head.bias': 'head.fc.bias'}
# official files hold the arguments of their training, plain values, which timm's loader refuses otherwise
if hasattr(torch.serialization, 'add_safe_globals'):  # torch 2.4
    torch.serialization.add_safe_globals([argparse.Namespace])


class SLaK(Backbone):
    """SLaK as a model of timm: :class:`slak_mm.SLaK` and timm's head of pooling, norm and linear layer.

    Args:
        arch (str | dict): See :class:`slak_mm.SLaK`; other arguments of it as well. Defaults to 'tiny'.
        in_chans (int): Channels of the input image. Defaults to 3.
        num_classes (int): 0 for none. Defaults to 1000.
        global_pool (str): Of timm's ``SelectAdaptivePool2d``, '' for none. Defaults to 'avg'.
        drop_rate (float): Dropout before the linear layer. Defaults to 0.
        drop_path_rate (float): See :class:`slak_mm.SLaK`. Defaults to 0.
        device, dtype: Of the weights. Default to torch's.
    """

    def __init__(self, arch: Union[str, dict] = 'tiny', in_chans: int = 3, num_classes: int = 1000, global_pool: str = 'avg',
                 drop_rate: float = 0., device: Any = None, dtype: Optional[torch.dtype] = None, **options: Any):
        super().__init__(arch, in_channels=in_chans, gap_before_final_norm=False, **dict(dict(norm_cfg=dict(type='BN')), **options))
        del self.norm3  # the head has it
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.num_features = self.channels[-1]
        self.feature_info = [dict(num_chs=width, reduction=4 * 2**i, module=f'stages.{i}') for i, width in enumerate(self.channels)]
        self.head = NormMlpClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate,
                                          norm_layer='layernorm2d')
        self.head_hidden_size = self.head.num_features
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.to(device=device, dtype=dtype)

    def _load_from_state_dict(self, state_dict: Dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in [*state_dict]:
            for old, new in HEAD.items():
                if name.startswith(prefix + old) and not name.startswith(f'{prefix}head.norm.') and name != f'{prefix}{new}':
                    state_dict[prefix + new + name[len(prefix + old):]] = state_dict.pop(name)
                    break
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Patterns of names for timm's layer-wise learning rates: stem, and stages, or each block."""
        return dict(stem=r'^downsample_layers\.0', blocks=r'^(?:stages|downsample_layers)\.(\d+)' if coarse else [
            (r'^downsample_layers\.(\d+)', (0, )), (r'^stages\.(\d+)\.(\d+)', None)])

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether backward computes each block again, to save memory."""
        for module in self.modules():
            if isinstance(module, SLaKBlock):
                module.with_cp = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None, reset_other: bool = False) -> None:
        """A new linear layer, for other classes; none with 0.

        Args:
            num_classes (int): Of the new one.
            global_pool (str, optional): Another pooling. Defaults to None: as before.
            reset_other (bool): Leave out the norm, too. Defaults to False.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, reset_other=reset_other, in_features=self.num_features)
        self.head_hidden_size = self.head.num_features

    def _maps(self, x: Tensor, count: int) -> List[Tensor]:
        """Maps of the first stages, before any norm, (N, channels[i], H / 2**(i+2), W / 2**(i+2)) each."""
        self._check_size(x)
        layout = self._layout(x)
        x = x.contiguous(memory_format=layout)
        maps = []
        for downsample, stage in zip(self.downsample_layers[:count], self.stages):
            x = stage(downsample(x).contiguous(memory_format=layout))
            maps.append(x)
        return maps

    def forward_intermediates(self, x: Tensor, indices: Optional[Union[int, List[int]]] = None, norm: bool = False,
                              stop_early: bool = False, output_fmt: str = 'NCHW',
                              intermediates_only: bool = False) -> Union[List[Tensor], Tuple[Tensor, List[Tensor]]]:
        """The maps of stages, and the last one.

        Args:
            x (Tensor): Images (N, in_chans, H, W).
            indices (int | list[int], optional): The last so many stages, or these. Defaults to None: all.
            norm (bool): Not used: the norm is behind the pooling.
            stop_early (bool): Compute no stage after the last of ``indices``. Defaults to False.
            output_fmt (str): 'NCHW', no other.
            intermediates_only (bool): Without the last map. Defaults to False.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        wanted, last = feature_take_indices(len(self.stages), indices)
        maps = self._maps(x, last + 1 if stop_early else len(self.stages))
        chosen = [maps[i] for i in wanted]
        return chosen if intermediates_only else (maps[-1], chosen)

    def prune_intermediate_layers(self, indices: Union[int, List[int]] = 1, prune_norm: bool = False,
                                  prune_head: bool = True) -> List[int]:
        """Removes the stages after the last of ``indices``, and the head. Returns the stages that are asked for."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        ends_early = last < len(self.stages) - 1
        self.stages, self.downsample_layers = self.stages[:last + 1], self.downsample_layers[:last + 1]
        self.num_features = self.feature_info[last]['num_chs']
        if prune_head or ends_early:
            self.reset_classifier(0, '', reset_other=True)
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) to the last map (N, num_features, H / 32, W / 32)."""
        return self._maps(x, len(self.stages))[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map to logits (N, num_classes), or to what the linear layer takes."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Any:
        """Images (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


def _cfg() -> Dict[str, Any]:
    return dict(num_classes=1000, input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=224 / 256, interpolation='bicubic',
                mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, first_conv='downsample_layers.0.0', classifier='head.fc')


default_cfgs = generate_default_cfgs({f'slak_{arch}.untrained': _cfg() for arch in Backbone.arch_settings})


def _create(arch: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(SLaK, f'slak_{arch}', pretrained, arch=arch,
                                feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'), **kwargs)


@register_model
def slak_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SLaK-T; ``pretrained`` has no file to download: give ``checkpoint_path``."""
    return _create('tiny', pretrained, **kwargs)


@register_model
def slak_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SLaK-S; see :func:`slak_tiny`."""
    return _create('small', pretrained, **kwargs)


@register_model
def slak_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SLaK-B; see :func:`slak_tiny`."""
    return _create('base', pretrained, **kwargs)


@register_model
def slak_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SLaK-L; see :func:`slak_tiny`."""
    return _create('large', pretrained, **kwargs)
