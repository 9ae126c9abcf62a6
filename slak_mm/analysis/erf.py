"""Effective receptive field: how much each input pixel contributes to the centre of the last map (paper, section 6.1, appendix F)."""
from typing import Any, Callable, Dict, Iterable, Tuple

import numpy as np
import torch
from torch import Tensor

THRESHOLDS = (.2, .3, .5, .99)


def last_map(backbone: Any) -> Callable[[Tensor], Tensor]:
    """A function from images (N, 3, H, W) to the last map (N, C, h, w) of a backbone: its last stage's, before pooling and norm.

    Of a backbone that has no ``stages`` it is the last of the outputs.
    """

    def run(images: Tensor) -> Tensor:
        if not hasattr(backbone, 'stages'):
            return backbone(images)[-1]
        kept = []
        handle = backbone.stages[-1].register_forward_hook(lambda module, args, out: kept.append(out))
        try:
            backbone(images)
        finally:
            handle.remove()
        return kept[0]

    return run


def contribution_scores(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Contribution of each pixel to the centre of a map, as RepLKNet's and SLaK's authors compute it.

    The channels of the centre are cut at zero and summed; the score of a pixel is the sum over its colours, and over the images, of
    the positive part of the gradient.

    Args:
        network (Callable): From images to a map (N, C, h, w); its centre is (h // 2, w // 2).
        images (Tensor): (N, 3, H, W).

    Returns:
        Tensor: (H, W), not negative.

    Raises:
        ValueError: The network gives no map, or the scores are not finite.
    """
    images = images.detach().requires_grad_()
    out = network(images)
    if out.dim() != 4:
        raise ValueError(f'The network must give a map of 4 dimensions, got {tuple(out.shape)}.')
    centre = out[:, :, out.shape[2] // 2, out.shape[3] // 2].relu().sum()
    gradient, = torch.autograd.grad(centre, images)
    scores = gradient.relu().sum((0, 1))
    if not scores.isfinite().all():
        raise ValueError('The contribution scores are not finite: the weights or an image hold NaN, or overflow.')
    return scores


def mean_scores(network: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> np.ndarray:
    """Mean of :func:`contribution_scores` over images, one in each (1, 3, H, W) of ``batches``: (H, W), float64."""
    total: Any = 0.
    count = 0
    for images in batches:
        total = total + contribution_scores(network, images).double().cpu().numpy()
        count += len(images)
    return total / count


def rescaled(scores: np.ndarray) -> np.ndarray:
    """``log10(scores + 1)``, divided by its maximum: what the authors draw and measure. Where scores are far below 1, linear."""
    scores = np.log10(scores + 1)
    return scores / scores.max()


def area_ratio(scores: np.ndarray, threshold: float) -> Tuple[int, float]:
    """The smallest centred square that holds a share of the scores (appendix F).

    As in the authors' code its centre is the pixel (H // 2, W // 2) and its side A is odd; an edge beyond the map is cut off.

    Args:
        scores (np.ndarray): (H, W), not negative, not all zero.
        threshold (float): The share t, between 0 and 1.

    Returns:
        tuple[int, float]: A in pixels, and r, the area over that of the map.

    Raises:
        ValueError: A threshold out of range, or scores that are negative or all zero.
    """
    if not 0 < threshold < 1:
        raise ValueError(f'A threshold must be between 0 and 1, got {threshold!r}.')
    if scores.min() < 0 or not scores.any():
        raise ValueError('The scores must not be negative, and not all zero.')
    height, width = scores.shape
    distances = np.maximum(abs(np.arange(height) - height // 2)[:, None], abs(np.arange(width) - width // 2))
    held = np.cumsum(np.bincount(distances.ravel(), weights=scores.ravel()))
    side = 2 * int(np.searchsorted(held, threshold * held[-1])) + 1
    return side, min(side, height) * min(side, width) / scores.size


def area_ratios(scores: np.ndarray) -> Dict[str, float]:
    """r at each of the paper's thresholds, by its name in percent."""
    return {f'{t:.0%}': area_ratio(scores, t)[1] for t in THRESHOLDS}
