"""Parameters and multiply-adds of a config's model, dense and sparse."""
from typing import Dict, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from torch import nn

from ..checkpoints import CheckpointError, backbones, load_file, source
from ..errors import InputError
from ..models import SLaK
from ..models.backbones import backbone_cfg
from ..models.build import build_model, quiet
from ..models.readers import require_fit
from ..registry import class_of, library_of
from .flops import CLASSES, Complexity, allocate, complexity, densities_of_masks, densities_of_weights

SHAPES = dict(mmpretrain=(224, 224), mmseg=(512, 2048), mmdet=(800, 1280))  # the paper's


def build(cfg: Config) -> nn.Module:
    """The model of a config, at random weights, whatever its library.

    Raises:
        InputError: Its neck or heads do not take what its backbone gives.
    """
    with quiet():
        model = build_model(cfg)
    require_fit(model)
    return model


def find_densities(cfg: Config, model: nn.Module, checkpoint: Optional[str] = None, allocation: Optional[str] = None,
                   sparsity: float = 0.) -> Tuple[Dict[str, float], str]:
    """How dense each layer of ``model`` is: by a checkpoint, by an allocation, or dense.

    Args:
        cfg (Config): The model's.
        model (nn.Module): Of :func:`build`.
        checkpoint (str, optional): Path or URL: its masks, or the zeros of its weights, which are loaded into ``model``.
        allocation (str, optional): See :func:`slak_mm.analysis.flops.allocate`.
        sparsity (float): For the allocation. Defaults to 0.

    Returns:
        tuple[dict[str, float], str]: Share of active weights by parameter name, without layers that are dense; and where it is from.

    Raises:
        InputError: An allocation of a backbone that cannot be pre-trained.
        CheckpointError: The checkpoint has no weight of the model.
    """
    if checkpoint:
        masks = load_file(checkpoint).get('sparsity', {}).get('masks')
        if masks is not None:
            return densities_of_masks(model, masks), f'masks of {checkpoint}'
        load(model, checkpoint)
        return densities_of_weights(model), f'zeros of {checkpoint}'
    if allocation is None:
        return {}, 'dense'
    backbone = dict(backbone_cfg(cfg))
    if class_of(backbone, MODELS, cfg.get('default_scope')) is not SLaK or backbone.get('deploy'):
        raise InputError('--allocation is of a SLaK as it is trained (not deploy=True): for other models, use --checkpoint')
    for key in ('type', '_scope_'):
        backbone.pop(key, None)
    classes = cfg.model.head.num_classes if library_of(cfg) == 'mmpretrain' else CLASSES
    densities = allocate(backbone, allocation, sparsity, classes)
    own, prefix = dict(model.named_parameters()), next(iter(backbones(model)))
    densities = {name.replace('backbone', prefix, 1): density for name, density in densities.items()}
    return {name: density for name, density in densities.items() if name in own}, f'{allocation}, sparsity {sparsity}'


def load(model: nn.Module, path: str) -> None:
    """The weights of any file that tools/test.py takes; those of another head are passed over."""
    state_dict = CheckpointLoader.load_checkpoint(source(path), 'cpu')['state_dict']
    own = model.state_dict()
    prefixes = tuple(f'{name}.' for name in backbones(model))
    fitting = {name: value for name, value in state_dict.items()
               if name.startswith(prefixes) or name in own and own[name].shape == value.shape}
    if not fitting.keys() & own.keys():
        raise CheckpointError(f'{path} has no weight of this model; it has {[*state_dict][:3]}.')
    model.load_state_dict(fitting, strict=False)


def count(cfg: Config, shape: Optional[Tuple[int, int]] = None, checkpoint: Optional[str] = None, allocation: Optional[str] = None,
          sparsity: float = 0.) -> Tuple[Complexity, str]:
    """What the model of a config costs on one image.

    Args:
        cfg (Config): Of mmpretrain, mmseg or mmdet.
        shape (tuple[int, int], optional): Height and width of the image. Defaults to None: the paper's, :data:`SHAPES`.
        checkpoint, allocation, sparsity: See :func:`find_densities`.

    Returns:
        tuple[Complexity, str]: And where the densities are from.

    Raises:
        InputError: The config is of no such library.
        ValueError: A backbone or an allocation that cannot be reached.
        CheckpointError, FileNotFoundError: See :func:`find_densities`.
    """
    library = library_of(cfg)
    if library not in SHAPES:
        raise InputError(f'{cfg.filename}: default_scope={library!r} must be one of {tuple(SHAPES)}')
    shape = shape or SHAPES[library]
    model = build(cfg)
    densities, origin = find_densities(cfg, model, checkpoint, allocation, sparsity)
    in_channels = backbone_cfg(cfg).get('in_channels', 3)
    try:
        return complexity(model.to('meta'), shape, densities, in_channels), origin
    except (NotImplementedError, RuntimeError):  # its forward depends on the data, or on operators that must compute
        return complexity(build(cfg), shape, densities, in_channels), origin
