"""What the zeros of the classifiers of :mod:`.photos` save on the machine at hand: each compacted and merged, beside the dense one."""
from pathlib import Path
from statistics import median
from typing import Any, Dict

import torch
from torch import nn

from ...deploy import compact
from ..throughput import interleaved
from .execute import has_ended, load_classifier, run_folder, trained
from .photos import DENSE, STUDY, VARIANTS


def deployed(work_dir: Path, variant: str, fold: int) -> nn.Module:
    """The trained classifier of a run, without what is dead in it, and merged."""
    _, model = load_classifier(run_folder(work_dir, STUDY, variant, fold) / 'config.py', trained(work_dir, STUDY, variant, fold))
    compact(model)
    model.backbone.switch_to_deploy()
    return model.eval()


def measure_speeds(work_dir: Path, fold: int = 0, batch: int = 8, size: int = 224, repeats: int = 25) -> Dict[str, Dict[str, Any]]:
    """Inference of each variant, all in turn.

    Args:
        work_dir (Path): Of the study.
        fold (int): Whose classifiers. Defaults to 0.
        batch (int): Images at a time. Defaults to 8.
        size (int): Of the images, in pixels. Defaults to 224.
        repeats (int): Samples of each. Defaults to 25.

    Returns:
        dict[str, dict]: Of each variant that was trained: ``seconds`` of a batch, ``speedup`` over the dense one, the median over the
        rounds, ``quarter`` and ``three_quarters``, between which half of the rounds are, and ``parameters`` that are left.

    Raises:
        InputError: The dense one was not trained.
    """
    models = {DENSE: deployed(work_dir, DENSE, fold)}
    models.update({variant: deployed(work_dir, variant, fold) for variant in VARIANTS
                   if variant != DENSE and has_ended(run_folder(work_dir, STUDY, variant, fold))})
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))

    def case(model: nn.Module):
        return torch.inference_mode()(lambda: model(images, mode='tensor'))

    seconds = interleaved({variant: case(model) for variant, model in models.items()}, repeats)
    found = {}
    for variant, samples in seconds.items():
        ratios = sorted(dense / own for dense, own in zip(seconds[DENSE], samples))
        found[variant] = dict(
            seconds=median(samples), speedup=median(ratios), quarter=ratios[len(ratios) // 4],
            three_quarters=ratios[-1 - len(ratios) // 4], parameters=sum(p.numel() for p in models[variant].parameters()))
    return found
