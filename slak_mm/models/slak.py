import math
import numbers
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, ContextManager, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
import torch.utils.checkpoint as cp
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoints.fit import adapt_state_dict
from ..compat import is_compiling, is_functorch_active
from ..errors import InputError
from ..registry import MODELS, register
from .bypass import is_observed, is_plain_tensor, is_traced, is_untouched
from .large_kernel import FORMS, LargeKernel
from .ops import add, layer_norm_2d, norm_mlp
from .padding import pad_stage, true_channels

INIT_CFG = (dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=.02, bias=0.), )


class LayerNorm2d(nn.LayerNorm):
    """``nn.LayerNorm`` over the channels of a (N, C, H, W) map, or over its first C if it is padded; the output is channels_last."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm_2d(true_channels(x, self, 1), self.weight, self.bias, self.eps, plain=is_traced(x))


@contextmanager
def _recomputing(module: nn.Module):
    """Batch norms normalise as before and leave their running statistics alone."""
    norms: List[Any] = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, kept):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(num_batches_tracked)


class SLaKBlock(nn.Module):
    """Large kernel -> LayerNorm -> Linear -> GELU -> Linear -> layer scale -> drop path -> residual (paper, section 4.1).

    Args:
        channels (int): Number of channels, C.
        large_kernel (LargeKernel): The token mixer, (N, C, H, W) to (N, C, H, W).
        drop_path_rate (float): Probability to drop the residual branch of a sample. Defaults to 0.
        layer_scale_init_value (float): Initial value of the per-channel scale; 0 for none. Defaults to 1e-6.
        with_cp (bool): Recompute the block in backward to save memory. Defaults to False.
        mlp_channels (int, optional): Hidden units between the linear layers. Defaults to None: 4C.
    """

    neurons = (('pwconv1', 'pwconv2'), )  # the layers whose hidden units a sparse training may remove, see slak_mm.sparsity

    def __init__(self, channels: int, large_kernel: LargeKernel, drop_path_rate: float = 0., layer_scale_init_value: float = 1e-6,
                 with_cp: bool = False, mlp_channels: Optional[int] = None):
        super().__init__()
        self.with_cp = with_cp
        self.large_kernel = large_kernel
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        hidden = mlp_channels or 4 * channels
        self.pwconv1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(hidden, channels)
        scale = float(layer_scale_init_value)  # of an integer torch would make integers
        self.gamma = nn.Parameter(torch.full((channels, ), scale)) if scale > 0 else None
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def _forward(self, x: Tensor) -> Tensor:
        out = self._norm_mlp(self.large_kernel(x).permute(0, 2, 3, 1))
        return add(x, self.drop_path(out.permute(0, 3, 1, 2)), plain=is_traced(x))

    def _norm_mlp(self, x: Tensor) -> Tensor:
        norm, linear1, linear2 = self.norm, self.pwconv1, self.pwconv2
        if self._may_bypass(x):
            return norm_mlp(x, (norm.weight, norm.bias, norm.eps), (linear1.weight, linear1.bias), (linear2.weight, linear2.bias),
                            self.gamma)
        x = linear2(self.act(linear1(norm(true_channels(x, norm, -1)))))
        return x if self.gamma is None else x * self.gamma

    def _may_bypass(self, x: Tensor) -> bool:
        """Whether :func:`norm_mlp` computes what calls of the layers do. A compiler wants the plain operators as well."""
        if is_compiling() or is_observed(x):
            return False
        norm, act = self.norm, self.act
        return (is_untouched(norm, nn.LayerNorm, 'weight', 'bias') and norm.normalized_shape == x.shape[-1:]
                and is_untouched(act, nn.GELU) and act.approximate == 'none'
                and is_untouched(self.pwconv1, nn.Linear, 'weight', 'bias') and is_untouched(self.pwconv2, nn.Linear, 'weight', 'bias')
                and (self.gamma is None or is_plain_tensor(self.gamma)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        if not self.with_cp or is_traced(x) or not x.requires_grad:
            return self._forward(x)
        context: ContextManager[None] = nullcontext()

        def run(x: Tensor) -> Tensor:
            nonlocal context
            with context:
                # from the second call on, or the running statistics would take this batch twice
                context = _recomputing(self)
                return self._forward(x)

        return cp.checkpoint(run, x, use_reentrant=False)


def _plain(value: Any) -> Any:
    """Numbers of numpy, alone, in an array or in a sequence, as Python's; anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _check_number(name: str, value: Any, kind: Any, least: float, below: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < below:
        what = 'an integer' if kind is numbers.Integral else 'a number'
        raise ValueError(f'{name} must be {what} from {least}{f" to below {below}" if below < math.inf else ""}, got {value!r}.')


@register(MODELS)
class SLaK(BaseModule):
    """SLaK: Sparse Large Kernel Network.

    `More ConvNets in the 2020s: Scaling up Kernels Beyond 51x51 using Sparsity <https://arxiv.org/abs/2207.03620>`_ (ICLR 2023):
    ConvNeXt with MxM depthwise kernels factorised into MxN + NxM (+ NxN), batch norm after each, and widened stages. Sparsity is
    no part of the architecture; :class:`slak_mm.SparsityHook` trains it.

    The maps are channels_last inside, which is 2 to 3 times faster on a CPU, and leave in the default layout.

    Args:
        arch (str | dict): One of ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, or a dict with ``depths`` and ``channels``, four
            each, channels before ``width_factor``. Defaults to 'tiny'.
        in_channels (int): Channels of the input image. Defaults to 3.
        kernel_sizes (Sequence[int]): The longer edge M of each stage's kernels, odd. Defaults to (51, 49, 47, 13).
        small_kernel_size (int): The shorter edge N and the size of the small kernel, odd, at most the smallest M. Defaults to 5.
        width_factor (float): Stage i has ``int(channels[i] * width_factor)`` channels. Defaults to 1.3.
        large_kernel (str | Sequence[str]): Form of the large-kernel layer, or of each stage's: ``'decomposed'`` (the paper's),
            ``'reparam'`` (MxM + small), ``'naive'`` (MxM alone), or one that the paper compares with: ``'sequential'``, ``'dilated'``,
            ``'stacked'`` (``slak_mm.models.large_kernel.branch_shapes``). Defaults to 'decomposed'.
        norm_cfg (dict): Norm after each depthwise convolution. Defaults to ``dict(type='SyncBN')``, which mmengine's Runner turns
            into BN when training is not distributed.
        drop_path_rate (float): Stochastic depth, linear over the blocks from 0 to this rate. Defaults to 0.
        layer_scale_init_value (float): Initial layer scale; 0 for none. Defaults to 1e-6.
        out_indices (int | Sequence[int]): Stages whose maps are returned; negative ones count from the end. Stages after the last of
            them are not built; a file that has them loads nevertheless. Defaults to -1.
        frozen_stages (int): The first this many stages (and the stem or downsampling before each) are not trained. Defaults to 0.
        gap_before_final_norm (bool): Global average pooling before the output norm, as for classification: outputs (N, C).
            Otherwise they are (N, C, H, W). Defaults to True.
        with_cp (bool): Recompute each block in backward to save memory. Defaults to False.
        mlp_channels (Sequence, optional): Of each stage the number of hidden units in each of its blocks' MLPs; None for a stage whose
            blocks have 4 times its channels. :func:`slak_mm.deploy.compact` leaves other numbers. Defaults to None: no stage has.
        filters (Sequence, optional): Of each stage, for each of its blocks, a dict of convolutions to their number of filters, if that
            is not one for each channel, as ``dict(tall=60)``; None for a stage whose blocks have all. Defaults to None: all stages do.
        deploy (bool): Build the merged form of :meth:`switch_to_deploy`, to load a file that was saved in it. Defaults to False.
        init_cfg (dict | list[dict], optional): With ``dict(type='Pretrained', checkpoint=PATH_OR_URL[, prefix=...][, key=...])``
            official, downstream, converted and mmengine files all load. Defaults to None: truncated normal, std .02.

    Raises:
        ValueError: An argument that does not fit; the message lists what does.
    """
    depths: Tuple[int, ...]
    channels: Tuple[int, ...]
    out_indices: Tuple[int, ...]
    frozen_stages: int
    gap_before_final_norm: bool
    downsample_layers: nn.ModuleList
    stages: nn.ModuleList
    arch_settings = {
        'tiny': dict(depths=(3, 3, 9, 3), channels=(96, 192, 384, 768)),
        'small': dict(depths=(3, 3, 27, 3), channels=(96, 192, 384, 768)),
        'base': dict(depths=(3, 3, 27, 3), channels=(128, 256, 512, 1024)),
        'large': dict(depths=(3, 3, 27, 3), channels=(192, 384, 768, 1536)),
    }

    def __init__(self,
                 arch: Union[str, dict] = 'tiny',
                 in_channels: int = 3,
                 kernel_sizes: Sequence[int] = (51, 49, 47, 13),
                 small_kernel_size: int = 5,
                 width_factor: float = 1.3,
                 large_kernel: Union[str, Sequence[str]] = 'decomposed',
                 norm_cfg: dict = dict(type='SyncBN'),
                 drop_path_rate: float = 0.,
                 layer_scale_init_value: float = 1e-6,
                 out_indices: Union[int, Sequence[int]] = -1,
                 frozen_stages: int = 0,
                 gap_before_final_norm: bool = True,
                 with_cp: bool = False,
                 mlp_channels: Optional[Sequence[Optional[Sequence[int]]]] = None,
                 filters: Optional[Sequence[Optional[Sequence[Dict[str, int]]]]] = None,
                 deploy: bool = False,
                 init_cfg: Optional[Union[dict, List[dict]]] = None):
        super().__init__(init_cfg=init_cfg or [dict(cfg) for cfg in INIT_CFG])
        in_channels, small_kernel_size, width_factor, drop_path_rate, layer_scale_init_value = map(
            _plain, (in_channels, small_kernel_size, width_factor, drop_path_rate, layer_scale_init_value))
        kernel_sizes, out_indices, frozen_stages = map(_plain, (kernel_sizes, out_indices, frozen_stages))
        self.depths, channels = self._parse_arch(arch)
        if not isinstance(width_factor, numbers.Real) or not 0 < width_factor < math.inf:
            raise ValueError(f'width_factor must be positive, got {width_factor!r}.')
        self.channels = tuple(int(c * width_factor) for c in channels)
        if min(self.channels) < 1:
            raise ValueError(f'width_factor={width_factor!r} leaves stages without channels: {self.channels}. Choose a larger one.')
        _check_number('in_channels', in_channels, numbers.Integral, 1)
        _check_number('drop_path_rate', drop_path_rate, numbers.Real, 0, 1)
        _check_number('layer_scale_init_value', layer_scale_init_value, numbers.Real, 0)
        if not isinstance(norm_cfg, dict) or 'type' not in norm_cfg:
            raise ValueError(f"norm_cfg must be a dict with a type, e.g. dict(type='SyncBN'), got {norm_cfg!r}.")
        num_stages = len(self.depths)
        if isinstance(kernel_sizes, str) or not isinstance(kernel_sizes, Sequence) or len(kernel_sizes) != num_stages:
            raise ValueError(f'kernel_sizes must hold one odd size for each of the {num_stages} stages, got {kernel_sizes!r}.')
        forms = (large_kernel, ) * num_stages if isinstance(large_kernel, str) else large_kernel
        if not isinstance(forms, Sequence) or len(forms) != num_stages:
            raise ValueError(f'large_kernel must be one of {FORMS}, or one for each of the {num_stages} stages, got {large_kernel!r}.')
        self.out_indices = self._parse_out_indices(out_indices, num_stages)
        if not isinstance(frozen_stages, int) or frozen_stages not in range(num_stages + 1):
            raise ValueError(f'frozen_stages must be an integer from 0 (none) to {num_stages} (all), got {frozen_stages!r}.')
        self.frozen_stages = frozen_stages
        self.gap_before_final_norm = gap_before_final_norm
        hidden = self._per_block('mlp_channels', mlp_channels, [4 * width for width in self.channels])
        for value in chain.from_iterable(hidden):
            _check_number('a number in mlp_channels', value, numbers.Integral, 1)
        self.mlp_channels: Tuple[Tuple[int, ...], ...] = hidden
        self.filters: Tuple[Tuple[Dict[str, int], ...], ...] = self._per_block('filters', filters, [{} for _ in self.channels])

        drop_path_rates = iter(np.linspace(0, drop_path_rate, sum(self.depths)).tolist())
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        previous = in_channels
        for i, width in enumerate(self.channels[:max(self.out_indices) + 1]):
            layers: Tuple[nn.Module, nn.Module]
            if i == 0:
                layers = nn.Conv2d(previous, width, kernel_size=4, stride=4), LayerNorm2d(width, eps=1e-6)
            else:
                layers = LayerNorm2d(previous, eps=1e-6), nn.Conv2d(previous, width, kernel_size=2, stride=2)
            self.downsample_layers.append(nn.Sequential(*layers))
            self.stages.append(
                nn.Sequential(*(SLaKBlock(
                    width,
                    LargeKernel(width, kernel_sizes[i], small_kernel_size, forms[i], norm_cfg, deploy, kept),
                    drop_path_rate=next(drop_path_rates),
                    layer_scale_init_value=layer_scale_init_value,
                    with_cp=with_cp,
                    mlp_channels=hidden) for hidden, kept in zip(self.mlp_channels[i], self.filters[i]))))
            if i in self.out_indices:
                self.add_module(f'norm{i}', LayerNorm2d(width, eps=1e-6))
            previous = width
        self._freeze_stages()

    @classmethod
    def _parse_arch(cls, arch: Union[str, dict]) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
        if isinstance(arch, str) and arch in cls.arch_settings:
            arch = cls.arch_settings[arch]
        if not isinstance(arch, dict) or not {'depths', 'channels'} <= set(arch):
            raise ValueError(f'arch={arch!r} is unknown; choose from {tuple(cls.arch_settings)} or pass '
                             'dict(depths=(...), channels=(...)).')
        depths, channels = _plain(arch['depths']), _plain(arch['channels'])
        for name, values, kind in (('depths', depths, numbers.Integral), ('channels', channels, numbers.Real)):
            if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 4:
                raise ValueError(f'SLaK has 4 stages: arch needs 4 depths and 4 channels, got depths={depths}, channels={channels}.')
            for value in values:
                _check_number(f'{name} in arch', value, kind, 1)
        return tuple(depths), tuple(channels)

    @staticmethod
    def _parse_out_indices(out_indices: Union[int, Sequence[int]], num_stages: int) -> Tuple[int, ...]:
        indices = (out_indices, ) if isinstance(out_indices, int) else out_indices
        if not isinstance(indices, Sequence) or not indices or any(index not in range(-num_stages, num_stages) for index in indices):
            raise ValueError(f'out_indices must be stages from {-num_stages} to {num_stages - 1}, got {out_indices!r}.')
        return tuple(index % num_stages for index in indices)

    def _per_block(self, name: str, values: Any, defaults: Sequence[Any]) -> Tuple[Tuple[Any, ...], ...]:
        """An argument that holds, for each stage, a value for each block, or None: the stage's default."""
        values = (None, ) * len(self.depths) if values is None else _plain(values)
        if not isinstance(values, (list, tuple)) or len(values) != len(self.depths):
            raise ValueError(f'{name} must hold one entry for each of the {len(self.depths)} stages, got {values!r}.')
        found = []
        for depth, stage, default in zip(self.depths, values, defaults):
            stage = (default, ) * depth if stage is None else stage
            if not isinstance(stage, (list, tuple)) or len(stage) != depth or any(type(default) is dict and not isinstance(value, dict)
                                                                                  for value in stage):
                raise ValueError(f'{name} of a stage of {depth} blocks must be {depth} '
                                 f'{"dicts" if type(default) is dict else "numbers"}, or None, got {stage!r}.')
            found.append(tuple(stage))
        return tuple(found)

    @staticmethod
    def _layout(x: Any) -> torch.memory_format:
        """Of the maps inside: convolutions of both backends want the default one on a GPU, and vmap knows no other."""
        plain = is_functorch_active() or isinstance(x, Tensor) and x.is_cuda
        return torch.contiguous_format if plain else torch.channels_last

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Computes the feature maps.

        Args:
            x (Tensor): Images of shape (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: For each of ``out_indices`` i, (N, channels[i], H / 2**(i+2), W / 2**(i+2)); (N, channels[i]) with
            ``gap_before_final_norm``.

        Raises:
            InputError: H or W is less than ``min_size``.
        """
        self._check_size(x)
        layout = self._layout(x)
        x = x.contiguous(memory_format=layout)
        outs = []
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages)):
            x = stage(downsample(x).contiguous(memory_format=layout))
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}')
                if self.gap_before_final_norm:
                    outs.append(norm(x.mean((2, 3), keepdim=True)).flatten(1))
                else:
                    # mmcv's RoIAlign reads its input as if it were in the default layout
                    outs.append(norm(x).contiguous())
        return tuple(outs)

    @property
    def min_size(self) -> int:
        """The shortest side, in pixels, that images may have: that of one pixel of the last map."""
        return 2**(len(self.stages) + 1)

    def _check_size(self, x: Any) -> None:
        if isinstance(x, Tensor) and any(isinstance(side, int) and side < self.min_size for side in x.shape[-2:]):
            raise InputError(f'The images are {x.shape[-2]}x{x.shape[-1]}, height by width: SLaK needs at least {self.min_size} '
                             'pixels a side. Resize or pad them.')

    def train(self, mode: bool = True) -> 'SLaK':
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        for frozen in chain(self.downsample_layers[:self.frozen_stages], self.stages[:self.frozen_stages]):
            frozen.eval()
            frozen.requires_grad_(False)

    def switch_to_deploy(self, pad: Optional[int] = None) -> None:
        """Merges each large-kernel layer for inference, in place: outputs stay equal. A second call changes nothing.

        Args:
            pad (int, optional): Also widen the maps inside to a multiple of this many channels, by zeros, for runtimes whose fast
                depthwise kernels want that, as onnxruntime's 16. Norms and outputs keep the true widths. The weights of such a model
                fit no config: it is for export alone. Defaults to None: no padding.

        Raises:
            TypeError: A layer cannot be merged, see :meth:`LargeKernel.switch_to_deploy`. Nothing was.
            ValueError: ``pad`` is no positive integer.
        """
        _check_number('pad', 1 if pad is None else pad, numbers.Integral, 1)
        layers = [module for module in self.modules() if isinstance(module, LargeKernel)]
        for layer in layers:
            layer.check_mergeable()
        for layer in layers:
            layer.switch_to_deploy()
        if pad is not None:
            for i, (width, downsample, stage) in enumerate(zip(self.channels, self.downsample_layers, self.stages)):
                following: Any = self.downsample_layers[i + 1:i + 2]
                readers = [getattr(self, f'norm{i}', None), *(layers[0] for layers in following)]
                pad_stage(downsample, stage, [norm for norm in readers if norm is not None], width + -width % pad)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Layer id of a parameter for layer-wise learning rate decay.

        Args:
            param_name (str): Name of the parameter in the whole model.
            prefix (str): Where this backbone stands in it, e.g. ``'backbone.'``. Defaults to ''.

        Returns:
            tuple[int, int]: The id, from 0 (stem) to ``num_layers + 1`` (whatever is not in a stage), and the number of ids.
        """
        depth = self.depths[2]
        num_layers = 6 if depth <= 9 else max(12, 3 + math.ceil(depth / 3))
        kind, *indices = param_name[len(prefix):].split('.') if param_name.startswith(prefix) else ('', )
        if kind == 'downsample_layers':
            layer_id = (0, 2, 3, num_layers)[int(indices[0])]
        elif kind == 'stages':
            layer_id = (1, 2, 3 + int(indices[1]) // 3, num_layers)[int(indices[0])]
        else:
            layer_id = num_layers + 1
        return layer_id, num_layers + 2

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # here, so that a Runner's `load_from` and `resume` in any tool understand, or refuse, what `init_cfg` does
        adapt_state_dict(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
