"""Pictures and tables of effective receptive fields. Needs matplotlib."""
import textwrap
from pathlib import Path
from typing import Dict

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from .erf import area_ratio, rescaled

DECADES = 3
TITLE = 40  # letters in a line


def draw(maps: Dict[str, np.ndarray], path: Path) -> None:
    """Above as the authors rescale the scores, below in decades; the square holds half of what is above."""
    figure, axes = plt.subplots(2, len(maps), figsize=(3.2 * len(maps) + .8, 6.8), layout='constrained', squeeze=False)
    floor = 10.**-DECADES
    for (top, bottom), (name, scores) in zip(axes.T, maps.items()):
        shown = rescaled(scores)
        linear = top.imshow(shown, cmap='magma', vmin=0, vmax=1)
        decades = bottom.imshow(np.maximum(shown, floor), cmap='magma', norm=LogNorm(floor, 1))
        side, ratio = area_ratio(shown, .5)
        corner = scores.shape[1] // 2 - side / 2, scores.shape[0] // 2 - side / 2
        for axis in (top, bottom):
            axis.add_patch(plt.Rectangle(corner, side, side, fill=False, edgecolor='cyan', linewidth=1))
            axis.set_xticks([])
            axis.set_yticks([])
        top.set_title(f'{textwrap.fill(name, TITLE)}\nhalf of it in {ratio:.1%} of the area', fontsize=9)
    figure.colorbar(linear, ax=axes[0], label='contribution, log10(score + 1), rescaled', shrink=.8)
    figure.colorbar(decades, ax=axes[1], label='the same in decades', shrink=.8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def table(results: Dict[str, dict]) -> str:
    """The area ratios in Markdown."""
    thresholds = list(next(iter(results.values()))['area_ratios'])
    lines = ['| | ' + ' | '.join(f't = {t}' for t in thresholds) + ' |', '|---' * (len(thresholds) + 1) + '|']
    lines += [f'| {name} | ' + ' | '.join(f'{ratio:.1%}' for ratio in result['area_ratios'].values()) + ' |'
              for name, result in results.items()]
    return '\n'.join(lines) + '\n'
