"""Tables and figures of the study on digits. Needs matplotlib."""
from pathlib import Path
from statistics import mean, stdev
from typing import List, Mapping, Sequence

import matplotlib.pyplot as plt

from .digits import REFERENCE, STATIC, SWEEP_INTERVALS, SWEEP_RATES


def table(rows: List[dict]) -> str:
    """The summary in Markdown."""
    lines = ['| kernels, training | non-zero parameters | test accuracy, % | minus dynamic (random), same seed | training loss |',
             '|---|---|---|---|---|']
    for row in rows:
        difference = '' if row['variant'] == REFERENCE.name else '{difference_mean:+.2f} ± {difference_std:.2f}'.format(**row)
        lines.append('| {variant} | {nonzero:,} | {accuracy_mean:.2f} ± {accuracy_std:.2f} | {} | {loss_mean:.4f} ± {loss_std:.4f} |'
                     .format(difference, **row))
    return '\n'.join(lines) + '\n'


def draw(runs: List[dict], rows: List[dict], path: Path) -> None:
    """A dot for each run; mean and standard deviation below them."""
    values = {f"{row['variant']}\n{row['nonzero']:,} non-zero": [run['accuracy'] for run in runs if run['variant'] == row['variant']]
              for row in rows}
    draw_runs(values, 'test accuracy, %   (dots: seeds; diamond and whisker: mean and standard deviation)', path)


def draw_runs(values: Mapping[str, Sequence[float]], label: str, path: Path) -> None:
    """A row for each entry: a dot for each value, mean and standard deviation below; grey if it is called dense.

    Args:
        values (dict): From names to values.
        label (str): What the values are.
        path (Path): Picture to write.
    """
    figure, axes = plt.subplots(figsize=(8, .6 * len(values)), layout='constrained')
    for y, (name, numbers) in enumerate(values.items()):
        color = 'tab:gray' if 'dense' in name else 'tab:blue'
        axes.plot(numbers, [y + .14] * len(numbers), 'o', color=color, alpha=.4, markersize=5, markeredgewidth=0)
        axes.errorbar(mean(numbers), y - .14, xerr=stdev(numbers) if len(numbers) > 1 else None, fmt='D', color=color, capsize=3,
                      markersize=5)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis='x', alpha=.3)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    axes.tick_params(axis='y', length=0)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def sweep_table(rows: List[dict]) -> str:
    """The sweep in Markdown."""
    lines = ['| prune rate / interval | test accuracy, % | minus static, same seed | training loss |', '|---|---|---|---|']
    for row in rows:
        difference = '' if row['variant'] == STATIC.name else '{difference_mean:+.2f} ± {difference_std:.2f}'.format(**row)
        lines.append('| {variant} | {accuracy_mean:.2f} ± {accuracy_std:.2f} | {} | {loss_mean:.4f} ± {loss_std:.4f} |'
                     .format(difference, **row))
    return '\n'.join(lines) + '\n'


def draw_sweep(rows: List[dict], path: Path) -> None:
    """Accuracy and loss over the interval, a line for each prune rate; the band is static training."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
    for axes, value, label in zip(panels, ('accuracy', 'loss'), ('test accuracy, %', 'training loss of the last epoch')):
        static, *dynamic = [(row, row[f'{value}_mean'], row[f'{value}_std']) for row in rows]
        axes.axhspan(static[1] - static[2], static[1] + static[2], color='tab:gray', alpha=.2, linewidth=0)
        axes.axhline(static[1], color='tab:gray', label='static')
        for i, rate in enumerate(SWEEP_RATES):
            points = [entry for entry in dynamic if entry[0]['prune_rate'] == rate]
            # a little apart, or the whiskers would cover each other
            at = [row['interval'] * 1.06**(i - 1) for row, _, _ in points]
            axes.errorbar(at, [point[1] for point in points], yerr=[point[2] for point in points], fmt='o-', markersize=4, capsize=3,
                          label=f'prune rate {rate}')
        axes.set_xscale('log')
        axes.set_xticks(SWEEP_INTERVALS, SWEEP_INTERVALS)
        axes.minorticks_off()
        axes.set_xlabel('optimizer steps between adaptations')
        axes.set_ylabel(label)
        axes.spines[['top', 'right']].set_visible(False)
    panels[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
