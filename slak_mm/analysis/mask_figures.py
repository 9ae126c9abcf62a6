"""Figures and tables of the masks of a training run. Needs matplotlib."""
from pathlib import Path
from typing import Dict, List, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch
from PIL import Image, ImageDraw

from .mask_pictures import ACTIVE, NEVER, ONCE, PALETTE, canvas, short_name

GAP, INCHES_PER_TAP, GIF_SCALE, GIF_MS = 2, .022, 4, 500
MEANING = {ACTIVE: 'active', ONCE: 'was active', NEVER: 'never active'}
COLORS = {level: PALETTE[level] / 255 for level in MEANING}


def centres(sizes: Sequence[int]) -> List[float]:
    """Middle of each row or column of a canvas, in pixels."""
    cells = np.array(sizes) + 2 * GAP
    return list(cells.cumsum() - cells / 2 - .5)


def draw_strip(rows: Dict[str, List[np.ndarray]], steps: Sequence[int], path: Path) -> None:
    """A row for each kernel, a column for each checkpoint."""
    picture = canvas(list(rows.values()), GAP)
    heights = [row[0].shape[0] for row in rows.values()]
    width = max(row[0].shape[1] for row in rows.values())
    figure, axis = plt.subplots(figsize=(picture.shape[1] * INCHES_PER_TAP + 3.5, picture.shape[0] * INCHES_PER_TAP + 1),
                                layout='constrained')
    axis.imshow(PALETTE[picture], interpolation='nearest')
    axis.set_yticks(centres(heights), list(rows), fontsize=7)
    axis.set_xticks(centres([width] * len(steps)), [f'{step:,}' for step in steps], fontsize=7)
    axis.set_xlabel('optimizer steps')
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.legend(handles=[Patch(color=COLORS[level], label=meaning) for level, meaning in MEANING.items()],
                  loc='outside upper right', ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120, bbox_inches='tight')
    plt.close(figure)


def draw_gif(rows: Dict[str, List[np.ndarray]], steps: Sequence[int], path: Path) -> None:
    """A frame for each checkpoint: the kernels next to each other, the step below."""
    frames = []
    for column, step in zip(zip(*rows.values()), steps):
        picture = PALETTE[canvas([column], GAP)].repeat(GIF_SCALE, axis=0).repeat(GIF_SCALE, axis=1)
        frame = Image.new('RGB', (max(picture.shape[1], 120), picture.shape[0] + 20), 'white')
        frame.paste(Image.fromarray(picture))
        ImageDraw.Draw(frame).text((4, picture.shape[0] + 4), f'step {step:,}', fill='black')
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=GIF_MS, loop=0)


def draw_densities(rows: Dict[str, Dict[str, float]], step: int, path: Path) -> None:
    """A bar for each layer: dark the weights that are active, light those that were."""
    figure, axis = plt.subplots(figsize=(8, .16 * len(rows) + 1.2), layout='constrained')
    names = [f"{short_name(name)}  ({row['weights']:,})" for name, row in rows.items()]
    axis.barh(names, [row['ever_active'] for row in rows.values()], color=COLORS[ONCE], label='ever active')
    axis.barh(names, [row['density'] for row in rows.values()], color=COLORS[ACTIVE], label='active')
    axis.invert_yaxis()
    axis.margins(y=.01)
    axis.set_xlim(0, 1)
    axis.set_xlabel(f'share of the weights, after {step:,} steps')
    axis.tick_params(axis='y', labelsize=6, length=0)
    axis.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside upper right', ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(last: Dict[str, Dict[str, float]], names: Sequence[str]) -> str:
    """Some layers of the last checkpoint, in Markdown."""
    lines = ['| layer | weights | active | ever active |', '|---|---|---|---|']
    lines += ['| {} | {weights:,} | {density:.1%} | {ever_active:.1%} |'.format(name, **last[name]) for name in names]
    return '\n'.join(lines) + '\n'
