"""Parameters and multiply-adds of a network, dense and sparsity-aware, as the paper counts them.

torch's counter says how much each module computes. Convolutions and matrix products count, a multiplication with its addition as one
(what the papers call a FLOP); norms, activations, pooling, interpolation and biases do not. Every tap of a kernel counts at every
place of its output, also where it meets padding alone: so the papers count, though this package's own layer slices off taps that
cannot reach the map. A sparse layer counts at the share of its weights that is active.

Why not mmengine's counter: it traces, which torch cannot do without computing, and to compute UperNet at 2048x512 takes minutes. The
two agree, by test.
"""
from functools import partial
from inspect import signature
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.model import initialize, revert_sync_batchnorm
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models import SLaK
from ..sparsity import erk, from_weights, maskable, snip, snip_scores, uniform
from ..sparsity.masks import unpack

LAYERS = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
ALLOCATIONS = ('snip', 'erk', 'uniform')
CLASSES = 1000
KERNEL_SIZES = (7, 13, 31, 51, 71, 91, 111, 131, 151)


class Layer(NamedTuple):
    """A convolution or linear layer: shape of its weight, multiply-adds if dense, and the share of active weights."""
    name: str
    shape: Tuple[int, ...]
    macs: int
    density: float

    @property
    def weights(self) -> int:
        return torch.Size(self.shape).numel()


class Complexity(NamedTuple):
    """What a network costs: its layers, and the parameters and multiply-adds that are in none of them."""
    layers: List[Layer]
    other_parameters: int
    other_macs: int

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return self.other_parameters + sum(layer.weights for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of one image, if all weights are active."""
        return self.other_macs + sum(layer.macs for layer in self.layers)

    @property
    def sparse_parameters(self) -> int:
        """Number of active parameters."""
        return round(self.other_parameters + sum(layer.weights * layer.density for layer in self.layers))

    @property
    def sparse_macs(self) -> int:
        """Multiply-adds of one image by active weights."""
        return round(self.other_macs + sum(layer.macs * layer.density for layer in self.layers))


def complexity(model: nn.Module, size: Tuple[int, int], densities: Mapping[str, float] = {}, in_channels: int = 3) -> Complexity:
    """Counts a model on one image.

    A model of OpenMMLab runs in mode 'tensor', which leaves out a segmentor's auxiliary head. A two-stage detector's heads see as many
    boxes as its ``test_cfg`` allows proposals (boxes) and detections (masks), and no non-maximum suppression, as in mmdet 2.

    Args:
        model (nn.Module): Takes one batch of images. On the meta device nothing is computed, only counted.
        size (tuple[int, int]): Height and width of the image.
        densities (Mapping[str, float]): Share of active weights, by parameter name; what is not named is dense. Defaults to {}.
        in_channels (int): Channels of the image. Defaults to 3.

    Raises:
        ValueError: A density is of no convolution or linear layer of the model, or not in [0, 1].
    """
    model = revert_sync_batchnorm(model)
    model.eval()  # some models of the libraries return nothing
    layers = {f'{name}.weight': (name, module) for name, module in model.named_modules()
              if isinstance(module, LAYERS)}
    wrong = [f'{name}: {density}' for name, density in densities.items() if name not in layers or not 0 <= density <= 1]
    if wrong:
        raise ValueError(f'not a density in [0, 1] of a convolution or linear layer of the model: {", ".join(wrong[:4])}')
    counts = _count(model, torch.empty(1, in_channels, *size, device=next(model.parameters()).device))
    counted = [Layer(name, tuple(module.weight.shape), counts.get(module_name, 0), densities.get(name, 1.))
               for name, (module_name, module) in layers.items()]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(counted, parameters - sum(layer.weights for layer in counted), counts[''] - sum(layer.macs for layer in counted))


@torch.no_grad()
def _count(model: nn.Module, images: Tensor) -> Dict[str, int]:
    """Multiply-adds of each module that has any, with those in it; of the whole under ''."""
    # a module that has a hook is called: no function takes the place of a large-kernel layer's branches, or slices their kernels
    hooks = [module.register_forward_pre_hook(lambda *_: None) for module in model.modules()]
    if hasattr(model, 'roi_head'):
        model.forward = partial(_two_stage, model)
    elif _asks_for_samples(getattr(model, 'decode_head', None)) or hasattr(model, 'forward_transformer'):
        model.forward = partial(_with_samples, model)
    try:
        with FlopCounterMode(display=False) as counter:
            model(images)
    finally:
        vars(model).pop('forward', None)
        for hook in hooks:
            hook.remove()
    root = type(model).__name__
    return {name[len(root) + 1:]: sum(operators.values()) // 2 for name, operators in counter.get_flop_counts().items()
            if name == root or name.startswith(f'{root}.')}


def _asks_for_samples(head: Optional[nn.Module]) -> bool:
    return head is not None and 'batch_data_samples' in signature(head.forward).parameters


def _with_samples(model: Any, images: Tensor) -> None:
    """A model whose heads read the size of images from their samples: the DETRs of mmdet, Mask2Former in mmsegmentation."""
    from mmdet.structures import DetDataSample
    size = tuple(images.shape[2:])
    samples = [DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size, ori_shape=size))]
    maps = model.extract_feat(images)
    if hasattr(model, 'forward_transformer'):
        model.bbox_head(**{name: value for name, value in model.forward_transformer(maps, samples).items()
                           if name in signature(model.bbox_head.forward).parameters})
    else:
        model.decode_head(maps, samples)


def _two_stage(model: Any, images: Tensor) -> None:
    maps = model.extract_feat(images)
    if model.with_rpn:
        model.rpn_head(maps)
    roi_head = model.roi_head
    parts = [(roi_head.bbox_head, roi_head.bbox_roi_extractor, model.test_cfg['rpn']['max_per_img'])]
    if roi_head.with_mask:
        parts.append((roi_head.mask_head, roi_head.mask_roi_extractor, model.test_cfg['rcnn']['max_per_img']))
    for heads, extractors, boxes in parts:
        for head, extractor in zip(heads, extractors) if isinstance(heads, nn.ModuleList) else [(heads, extractors)]:
            # what the boxes are, and so what is pooled, does not matter
            pooled = maps[0].new_zeros(boxes, extractor.out_channels, *extractor.roi_layers[0].output_size)
            head(roi_head.shared_head(pooled) if roi_head.with_shared_head else pooled)


def _densities(model: nn.Module, masks: Mapping[str, Optional[Tensor]]) -> Dict[str, float]:
    return {name: int(mask.count_nonzero()) / mask.numel() for name, mask in masks.items() if mask is not None}


def densities_of_weights(model: nn.Module) -> Dict[str, float]:
    """Share of weights that are not zero, of each layer that has enough zeros to be called sparse."""
    return _densities(model, from_weights(_layers(model)))


def densities_of_masks(model: nn.Module, state: Mapping[str, Mapping]) -> Dict[str, float]:
    """Density of each mask in a checkpoint of :class:`slak_mm.SparsityHook`.

    Args:
        model (nn.Module): Whose masks they are; masks of other parameters (a classifier's head, in a segmentor) are passed over.
        state (Mapping): ``checkpoint['sparsity']['masks']``: the 'shape' and 'bits' of each parameter, see
            :class:`slak_mm.sparsity.Masks`.

    Raises:
        ValueError: No mask is of this model, or one is of another shape.
    """
    params = _layers(model)
    own = {name: entry for name, entry in state.items() if name in params}
    wrong = [name for name, entry in own.items() if list(entry['shape']) != list(params[name].shape)]
    if wrong or not own:
        raise ValueError('the masks in the checkpoint are not of this model: '
                         + (f'{wrong[0]} is {tuple(own[wrong[0]]["shape"])} there' if wrong else f'they are of {[*state][:2]} ...'))
    return _densities(model, {name: None if entry['bits'] is None else unpack(entry['bits'][0], entry['shape'])
                              for name, entry in own.items()})


def _layers(model: nn.Module) -> Dict[str, nn.Parameter]:
    names = {f'{name}.weight' for name, module in model.named_modules() if isinstance(module, LAYERS)}
    return {name: parameter for name, parameter in maskable(model).items() if name in names}


class Pretraining(nn.Module):
    """A SLaK as it is pre-trained, with a linear classifier; its names are those of an mmpretrain classifier.

    Args:
        backbone (dict): Arguments of the SLaK; what a pre-training decides otherwise (layer scale, outputs) is replaced.
        classes (int): Number of classes. Defaults to 1000.
    """

    def __init__(self, backbone: Mapping, classes: int = CLASSES):
        super().__init__()
        fixed = dict(out_indices=-1, gap_before_final_norm=True, drop_path_rate=0., norm_cfg=dict(type='BN'), init_cfg=None)
        scale = 0. if backbone.get('layer_scale_init_value') == 0 else 1e-6
        self.backbone = SLaK(**{**backbone, **fixed, 'layer_scale_init_value': scale})
        self.head = nn.ModuleDict(dict(fc=nn.Linear(self.backbone.channels[-1], classes)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes)."""
        return self.head['fc'](self.backbone(images)[-1])


def allocate(backbone: Mapping, allocation: str, sparsity: float, classes: int = CLASSES, size: Sequence[int] = (224, 224),
             batch: int = 4, seed: int = 0) -> Dict[str, float]:
    """Densities that a sparse pre-training would start from (paper, appendix B.1).

    Args:
        backbone, classes: See :class:`Pretraining`.
        allocation (str): 'snip', at random initial weights on a batch of noise with random labels; 'erk' or 'uniform'.
        sparsity (float): Share of all weights of 2 or 4 dimensions that is zero, in [0, 1).
        size, batch, seed: Height and width of the images, their number, and of the random numbers; for 'snip' alone.

    Returns:
        dict[str, float]: Share of active weights by parameter name, as ``backbone.stages.0.0.pwconv1.weight``.

    Raises:
        ValueError: An unknown allocation, or a sparsity that cannot be reached.
    """
    if allocation not in ALLOCATIONS:
        raise ValueError(f'allocation={allocation!r} is unknown; choose from {ALLOCATIONS}')
    if not 0 <= sparsity < 1:
        raise ValueError(f'sparsity must be in [0, 1), got {sparsity!r}')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device('cpu' if allocation == 'snip' else 'meta'):
            model = Pretraining(backbone, classes)
        params = maskable(model)
        shapes = {name: parameter.shape for name, parameter in params.items()}
        if allocation == 'snip':
            initialize(model, model.backbone.init_cfg)
            images = torch.randn(batch, backbone.get('in_channels', 3), *size)
            labels = torch.randint(classes, (batch, ))
            counts = snip(snip_scores(params, lambda: F.cross_entropy(model(images), labels)), 1 - sparsity)
        else:
            counts = dict(erk=erk, uniform=uniform)[allocation](shapes, 1 - sparsity)
    return {name: count / shapes[name].numel() for name, count in counts.items()}


def kernel_scaling(kernel_sizes: Sequence[int] = KERNEL_SIZES, arch='tiny', size: int = 224) -> Dict[str, List[Complexity]]:
    """Figure 4, left: ConvNeXt with each kernel size in all of its stages, MxM and decomposed."""

    def count(form: str, kernel_size: int) -> Complexity:
        with torch.device('meta'):
            model = Pretraining(dict(arch=arch, width_factor=1., kernel_sizes=(kernel_size, ) * 4, large_kernel=form))
        return complexity(model, (size, size))

    return {form: [count(form, kernel_size) for kernel_size in kernel_sizes] for form in ('naive', 'decomposed')}
