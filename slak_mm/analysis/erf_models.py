"""The backbones whose receptive fields are compared, and the images that they are shown."""
from pathlib import Path
from typing import Any, Callable, Iterator, List, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from PIL import Image
from rich.progress import track
from torch import Tensor, nn

from ..checkpoints import CheckpointError, source
from ..models import SLaK
from ..models.backbones import backbone_cfg, backbone_of
from ..models.build import build_model, quiet
from ..registry import enter_scope, is_a
from .erf import last_map, mean_scores

MEAN, STD = (.485, .456, .406), (.229, .224, .225)


def convnext() -> nn.Module:
    from mmpretrain.models import ConvNeXt
    return ConvNeXt('tiny', layer_scale_init_value=1.)


def slak(**options) -> nn.Module:
    return SLaK('tiny', norm_cfg=dict(type='BN'), layer_scale_init_value=1., **options)


# of figure 3
COMPARISON = {
    'ConvNeXt-T, 7-7-7-7': convnext,
    'ConvNeXt-T (RepLKNet), 31-29-27-13': lambda: slak(large_kernel='reparam', kernel_sizes=(31, 29, 27, 13), width_factor=1.),
    'SLaK-T, 51-49-47-13': slak,
}


def labels(*files: Sequence[str]) -> List[str]:
    """What models are called in tables and pictures: by their config and, if there is one, their checkpoint.

    Args:
        files (Sequence[str]): Paths of configs and, as many, of checkpoints.

    Returns:
        list[str]: All different: with as many of the folders as that takes, and a number behind what is given twice.
    """
    configs = [Path(path).with_suffix('') for path in files[0]]
    pairs = [*zip(configs, *(map(Path, paths) for paths in files[1:]))]
    deepest = max(len(path.parts) for pair in pairs for path in pair)
    found: List[str] = []
    # folders of the configs are tried first
    for counts in [(count, 1) for count in range(1, deepest + 1)] + [(count, count) for count in range(2, deepest + 1)]:
        found = [', '.join('/'.join(path.parts[-count:]) for path, count in zip(pair, counts)) for pair in pairs]
        if len(set(found)) == len(set(pairs)):
            break
    return [f'{name} ({found[:i].count(name) + 1})' if name in found[:i] else name for i, name in enumerate(found)]


def randomize(build: Callable[[], Any], seed: int) -> nn.Module:
    """What ``build`` returns, at the initial weights that the seed gives it."""
    torch.manual_seed(seed)
    with quiet():
        backbone = build()
        backbone.init_weights()
    return backbone


def from_config(path: str, seed: int) -> nn.Module:
    """The backbone of a config, at random weights."""
    cfg = Config.fromfile(path)
    enter_scope(cfg)
    options = dict(backbone_cfg(cfg), init_cfg=None)
    if any(is_a(options, name, MODELS) for name in ('SLaK', 'ConvNeXt')):
        options['layer_scale_init_value'] = 1.
    return revert_sync_batchnorm(randomize(lambda: MODELS.build(options), seed))


def from_checkpoint(path: str, checkpoint: str) -> nn.Module:
    """The backbone of a config, with the weights of a checkpoint of the whole model, mmengine's or official."""
    cfg = Config.fromfile(path)
    model = build_model(cfg)
    try:
        load_checkpoint(model, source(checkpoint), map_location='cpu', strict=True)
    except RuntimeError as error:
        raise CheckpointError(f'{checkpoint} does not fit {path}: {error}') from error
    return backbone_of(model)


def image_channels(backbone: nn.Module) -> int:
    """Of the images that a backbone takes: those of its first convolution."""
    return next((module.in_channels for module in backbone.modules() if isinstance(module, nn.Conv2d)), 3)


def noise(count: int, size: int, seed: int = 0, channels: int = 3) -> Iterator[Tensor]:
    """Gaussian noise of mean 0 and variance 1, as normalised images have: (1, channels, size, size) each."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(1, channels, size, size, generator=generator)


def photographs(paths: Sequence[Path], size: int) -> Iterator[Tensor]:
    """Image files, resized without regard to their shape, as the authors do, and normalised: (1, 3, size, size) each."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    for path in paths:
        with Image.open(path) as image:
            pixels = np.array(image.convert('RGB').resize((size, size), Image.Resampling.BICUBIC))
        yield ((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)[None]


def measure(backbone: nn.Module, images: Iterator[Tensor], count: int, name: str) -> np.ndarray:
    """The mean contribution of each pixel to the centre of a backbone's last map, on a GPU if there is one; shows its progress.

    Args:
        backbone (nn.Module): Of any library; it is left without gradients, in evaluation.
        images (Iterator[Tensor]): (1, C, H, W) each.
        count (int): Number of images.
        name (str): For the progress.

    Returns:
        np.ndarray: (H, W), see :func:`slak_mm.analysis.erf.mean_scores`.
    """
    device = get_device()
    backbone.to(device).requires_grad_(False)
    backbone.eval()  # mmpretrain's ConvNeXt returns None here
    batches = (image.to(device) for image in track(images, name, total=count))
    return mean_scores(last_map(backbone), batches)
