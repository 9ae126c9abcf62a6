"""Tables and figures of the studies on photos, from their results. Needs matplotlib and scipy."""
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import matplotlib.pyplot as plt
import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from scipy.stats import t as student

from ...models.build import quiet
from ..erf import area_ratios, last_map, mean_scores
from ..erf_models import from_config
from . import distance, distillation, photos, transfer
from .digits_report import draw_runs
from .execute import load_classifier, read_results, unpack

ERF_IMAGES, SPEEDS, PROFILES = 16, 'speed.json', 'masks.json'
CONFIDENCE = .95
LINES = 'o-', 's--', '^:'  # of the forms of a kernel


class Difference(NamedTuple):
    """Mean of paired differences, and the ends of its confidence interval."""
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]'


def paired(values: Sequence[float], others: Sequence[float]) -> Difference:
    """The 95% confidence interval of the mean of paired differences, by Student's t.

    Args:
        values, others (Sequence[float]): Equally many, at least 2; what belongs together is at the same place.
    """
    differences = np.subtract(np.asarray(values, float), np.asarray(others, float))
    middle = float(differences.mean())
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * differences.std(ddof=1) / len(differences)**.5)
    return Difference(middle, middle - half, middle + half)


def measure_fields(config: Path, checkpoint: str) -> Dict[str, Any]:
    """The area ratios of a classifier's effective receptive field on test images, trained and at its initial weights."""
    cfg, model = load_classifier(config, checkpoint)
    with quiet():
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    images = [model.data_preprocessor(pseudo_collate([dataset[i]]), False)['inputs']
              for i in range(0, len(dataset), max(1, len(dataset) // ERF_IMAGES))[:ERF_IMAGES]]
    found = {}
    for name, backbone in (('trained', model.backbone), ('untrained', from_config(str(config), cfg.randomness.seed))):
        backbone.eval()  # mmpretrain's backbones return nothing
        backbone.requires_grad_(False)
        scores = mean_scores(last_map(backbone), images)
        found[name] = {threshold: round(ratio, 4) for threshold, ratio in area_ratios(scores).items()}
    return dict(erf=found)


def measurement(study: str) -> Callable[[Path, str], Dict[str, Any]]:
    """What is measured of each run of a study, besides its metric."""
    return (lambda config, checkpoint: {}) if study == transfer.STUDY else measure_fields


def values_of(results: Sequence[Dict[str, Any]], variant: str, key: str) -> Dict[int, Any]:
    """An entry of a variant's results, by seed."""
    return {result['seed']: result[key] for result in results if result['variant'] == variant}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, or the only value."""
    return f'{mean(values):.2f} ± {stdev(values):.2f}' if len(values) > 1 else ''.join(f'{value:.2f}' for value in values)


def variants_of(results: Sequence[Dict[str, Any]]) -> List[str]:
    """Their variants, in the order of the results of the first seed."""
    return list(dict.fromkeys(result['variant'] for result in sorted(results, key=lambda result: result['seed'])))


def compare(results: Sequence[Dict[str, Any]], variant: str, reference: str, metric: str) -> str:
    """The paired difference of a variant to a reference over the seeds that both have; '' for fewer than 2."""
    mine, others = values_of(results, variant, metric), values_of(results, reference, metric)
    seeds = sorted(set(mine) & set(others))
    if variant == reference or len(seeds) < 2:
        return ''
    return str(paired([mine[seed] for seed in seeds], [others[seed] for seed in seeds]))


def classification_table(results: Sequence[Dict[str, Any]], reference: str = photos.REFERENCE) -> str:
    """Accuracy of each variant, and its paired differences to the reference, over folds and over photos."""
    lines = ['| | parameters | non-zero | accuracy, % | minus reference, over folds | over photos |',
             '|---|---|---|---|---|---|']
    base = values_of(results, reference, 'right')
    for variant in variants_of(results):
        mine = values_of(results, variant, 'right')
        seeds = sorted(set(mine) & set(base))
        bits = [[100 * bit for seed in seeds for bit in unpack(right[seed])] for right in (mine, base)]
        over_photos = '' if variant == reference or not seeds else str(paired(*bits))
        name = f'**{variant}** (reference)' if variant == reference else variant
        lines.append(f'| {name} | {_count(results, variant, "parameters")} | {_count(results, variant, "nonzero")} | '
                     f'{spread(list(values_of(results, variant, photos.METRIC).values()))} | '
                     f'{compare(results, variant, reference, photos.METRIC)} | {over_photos} |')
    return '\n'.join(lines) + '\n'


def _count(results: Sequence[Dict[str, Any]], variant: str, key: str) -> str:
    return f'{round(mean(values_of(results, variant, key).values())):,}'


def fields_table(results: Sequence[Dict[str, Any]]) -> str:
    """The area ratios of the effective receptive fields, in %, trained and untrained."""
    thresholds = list(results[0]['erf']['trained'])
    lines = [f'| | {" | ".join(f"t = {t}" for t in thresholds)} |', f'|---|{"---|" * len(thresholds)}']
    for variant in variants_of(results):
        fields = values_of(results, variant, 'erf').values()
        cells = [' → '.join(f'{100 * mean(field[when][t] for field in fields):.1f}' for when in ('untrained', 'trained'))
                 for t in thresholds]
        lines.append(f'| {variant} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def columns_and_rows(results: Sequence[Dict[str, Any]]) -> Tuple[List[str], List[str]]:
    """Of variants that are called ``COLUMN: ROW``."""
    columns, rows = zip(*(variant.split(': ', 1) for variant in variants_of(results)))
    return list(dict.fromkeys(columns)), list(dict.fromkeys(rows))


def grid(results: Sequence[Dict[str, Any]], metric: str) -> str:
    """Rows and columns from variants that are called ``COLUMN: ROW``."""
    columns, rows = columns_and_rows(results)
    lines = [f'| | {" | ".join(columns)} |', f'|---|{"---|" * len(columns)}']
    for row in rows:
        cells = [spread(list(values_of(results, f'{column}: {row}', metric).values())) for column in columns]
        lines.append(f'| {row} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def transfer_values(results: Sequence[Dict[str, Any]], variant: str) -> List[float]:
    """The metric of a task and arm, in %, by seed."""
    metric = transfer.TASKS[variant.split(': ')[0]][1]
    found = values_of(results, variant, metric)
    return [found[seed] * (1. if metric == 'mIoU' else 100.) for seed in sorted(found)]


def transfer_table(results: Sequence[Dict[str, Any]]) -> str:
    """The metric of each task and arm, and its paired difference to the same model from scratch."""
    lines = ['| task | pre-training | metric | minus from scratch, same seed |', '|---|---|---|---|']
    for variant in variants_of(results):
        task, arm = variant.split(': ')
        values, others = transfer_values(results, variant), transfer_values(results, f'{task}: {transfer.SCRATCH}')
        known = arm == transfer.SCRATCH or len(values) != len(others) or len(values) < 2
        lines.append(f'| {task} | {arm} | {spread(values)} | {"" if known else paired(values, others)} |')
    return '\n'.join(lines) + '\n'


def draw_grid(results: Sequence[Dict[str, Any]], metric: str, path: Path) -> None:
    """Accuracy of the task that needs distance, over the distance: a colour for each kernel, a line for each of its forms."""
    columns, rows = columns_and_rows(results)
    kernels, forms = (list(dict.fromkeys(part)) for part in zip(*(row.split(', ', 1) for row in rows)))
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout='constrained')
    for i, row in enumerate(rows):
        kernel, form = row.split(', ', 1)
        values = [list(values_of(results, f'{column}: {row}', metric).values()) for column in columns]
        at = np.arange(len(columns)) + .04 * (i - len(rows) / 2)  # a little apart, or they would cover each other
        color = f'C{kernels.index(kernel)}'
        axes.plot(at, [mean(one) if one else np.nan for one in values], LINES[forms.index(form)], color=color, label=row, markersize=5)
        axes.scatter(np.repeat(at, [len(one) for one in values]), np.concatenate(values), s=9, color=color, alpha=.4)
    axes.axhline(50, color='tab:gray', linewidth=.8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylabel('test accuracy, %')
    axes.set_title('mean of the seeds, and each of them as a dot; grey: chance', fontsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside right center', frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_speeds(results: Sequence[Dict[str, Any]], speeds: Dict[str, Any], path: Path) -> None:
    """Accuracy over speed: a point for each variant, with the spread of the folds and of the rounds that were measured.

    Args:
        results (list[dict]): Of the study on photos.
        speeds (dict): Of :func:`.speed.measure_speeds`.
        path (Path): Picture to write.
    """
    figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
    for variant in variants_of(results):
        if variant in speeds:
            values, speed = list(values_of(results, variant, photos.METRIC).values()), speeds[variant]
            middle = speed['speedup']
            axes.errorbar(middle, mean(values), stdev(values) if len(values) > 1 else 0.,
                          [[middle - speed['quarter']], [speed['three_quarters'] - middle]], fmt='o', capsize=3, markersize=5,
                          color='tab:gray' if 'dense' in variant else 'tab:blue')
            axes.annotate(variant.replace(', dynamic (random)', ''), (middle, mean(values)), xytext=(5, 4), fontsize=8,
                          textcoords='offset points')
    axes.set_xlabel('inference, times as fast as the dense one   (compacted and merged)')
    axes.set_ylabel('test accuracy, %')
    axes.grid(alpha=.3)
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_profiles(profiles: Dict[str, Dict[str, List[float]]], path: Path) -> None:
    """Where masks leave weights along the long side of kernels: a panel for each layer, a line for each variant.

    Args:
        profiles (dict): Of :func:`.profiles.measure_profiles`.
        path (Path): Picture to write.
    """
    layers = list(next(iter(profiles.values())))
    figure, panels = plt.subplots(1, len(layers), figsize=(2.7 * len(layers), 2.9), layout='constrained', sharey=True)
    for stage, (axes, layer) in enumerate(zip(panels, layers), 1):
        for variant, own in profiles.items():
            half = len(own[layer]) // 2
            axes.plot(range(-half, half + 1), own[layer], label=variant, color='tab:gray' if 'static' in variant else None)
        axes.set_title(f'stage {stage}, first block', fontsize=9)
        axes.set_xlabel('place in the kernel')
        axes.spines[['top', 'right']].set_visible(False)
    panels[0].set_ylim(0, 1)
    panels[0].set_ylabel('share of weights that are not zero')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper center', ncols=len(profiles), frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write(path: Path, out: Path) -> Tuple[str, List[Path]]:
    """Writes the tables and the figure of a study.

    Args:
        path (Path): Its results, ``STUDY.jsonl``. Beside those of the photos may be ``speed.json`` and ``masks.json``.
        out (Path): Folder for ``STUDY.md`` and ``STUDY.png``, and for ``speed.png`` and ``masks.png``.

    Returns:
        tuple[str, list[Path]]: The tables, in Markdown, and the files.
    """
    results, study = read_results(path), path.stem
    markdown, picture = out / f'{study}.md', out / f'{study}.png'
    files = [markdown, picture]
    label = 'test accuracy, %   (dots: folds; diamond and whisker: mean and standard deviation)'
    if study in (photos.STUDY, distillation.STUDY):
        reference = photos.REFERENCE if study == photos.STUDY else distillation.ALONE
        text = classification_table(results, reference) + '\n' + fields_table(results)
        draw_runs({variant: list(values_of(results, variant, photos.METRIC).values()) for variant in variants_of(results)},
                  label, picture)
        if study == photos.STUDY and (path.parent / SPEEDS).exists():
            speeds = json.loads((path.parent / SPEEDS).read_text(encoding='utf-8'))
            draw_speeds(results, speeds['variants'], out / 'speed.png')
            files.append(out / 'speed.png')
        if study == photos.STUDY and (path.parent / PROFILES).exists():
            draw_profiles(json.loads((path.parent / PROFILES).read_text(encoding='utf-8')), out / 'masks.png')
            files.append(out / 'masks.png')
    elif study == distance.STUDY:
        text = grid(results, distance.METRIC) + '\n' + fields_table(results)
        draw_grid(results, distance.METRIC, picture)
    else:
        text = transfer_table(results)
        draw_runs({variant: transfer_values(results, variant) for variant in variants_of(results)},
                  label.replace('accuracy', 'mIoU or mAP50').replace('folds', 'seeds'), picture)
    markdown.write_text(text, encoding='utf-8')
    return text, files
