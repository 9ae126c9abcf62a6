import json
import random

import numpy as np
import pytest
from scipy.stats import ttest_rel

from slak_mm.analysis.studies import distance, photos, report, transfer
from slak_mm.analysis.studies.execute import pack

ERF = dict(trained={'20%': .1, '99%': .9}, untrained={'20%': .05, '99%': .5})


def save(path, results):
    path.write_text(''.join(json.dumps(result) + '\n' for result in results))
    return path


def rows_of(table):
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines() if line.startswith('|')]


def test_confidence_interval_of_paired_differences():
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    expected = ttest_rel(a, b).confidence_interval(.95)
    assert report.paired(a, b) == pytest.approx(((a - b).mean(), expected.low, expected.high))


def test_classification_tables(tmp_path):
    rng = random.Random(0)
    results = []
    for variant in (photos.DENSE, photos.REFERENCE):
        for fold in range(3):
            right = [rng.random() < .6 for _ in range(20)]
            results.append(dict(study=photos.STUDY, variant=variant, seed=fold, right=pack(right), erf=ERF, parameters=100, nonzero=60,
                                **{photos.METRIC: 5. * sum(right)}))
    rng.shuffle(results)
    text, files = report.write(save(tmp_path / 'classification.jsonl', results), tmp_path)
    table, fields = text.split('\n\n')
    assert [path.name for path in files] == ['classification.md', 'classification.png'] and files[1].stat().st_size > 5000
    accuracy = {variant: [next(r[photos.METRIC] for r in results if (r['variant'], r['seed']) == (variant, fold)) for fold in range(3)]
                for variant in (photos.DENSE, photos.REFERENCE)}
    dense, reference = (next(row for row in rows_of(table) if variant in row[0]) for variant in accuracy)
    assert dense[1:4] == ['100', '60', f'{np.mean(accuracy[photos.DENSE]):.2f} ± {np.std(accuracy[photos.DENSE], ddof=1):.2f}']
    assert dense[4] == str(report.paired(accuracy[photos.DENSE], accuracy[photos.REFERENCE]))
    # as many photos in each fold: the means agree, the interval is narrower
    assert dense[5].split()[0] == dense[4].split()[0] and reference[4:] == ['', '']
    assert rows_of(fields)[2] == [rows_of(fields)[2][0], '5.0 → 10.0', '50.0 → 90.0']


def test_speeds_are_drawn_beside_accuracies(tmp_path):
    results = [dict(study=photos.STUDY, variant=variant, seed=fold, right=pack([True, False]), erf=ERF, parameters=100, nonzero=60,
                    **{photos.METRIC: 50. + fold}) for variant in (photos.DENSE, photos.REFERENCE) for fold in range(2)]
    speeds = {variant: dict(speedup=1.2, quarter=1.1, three_quarters=1.3) for variant in (photos.DENSE, photos.REFERENCE)}
    (tmp_path / 'speed.json').write_text(json.dumps(dict(variants=speeds)))
    _, files = report.write(save(tmp_path / 'classification.jsonl', results), tmp_path / '.')
    assert [path.name for path in files] == ['classification.md', 'classification.png', 'speed.png']
    assert files[2].stat().st_size > 5000


def test_distance_table(tmp_path):
    results = [dict(study=distance.STUDY, variant=distance.variant(side, kernel, form), seed=seed, erf=ERF,
                    **{distance.METRIC: side + kernel + seed}) for side in (24, 48) for kernel in (7, 51)
               for form in ('decomposed', 'square') for seed in range(2)]
    text, files = report.write(save(tmp_path / 'distance.jsonl', results), tmp_path)
    header, _, *rows = rows_of(text.split('\n\n')[0])
    assert header[1:] == ['24 pixels', '48 pixels'] and [row[0] for row in rows] == [
        f'{kernel}, {form}, one block' for kernel in (7, 51) for form in ('decomposed', 'square')]
    assert rows[3][1:] == ['75.50 ± 0.71', '99.50 ± 0.71'] and files[1].stat().st_size > 5000


def test_transfer_table(tmp_path):
    results = [dict(study=transfer.STUDY, variant=f'{task}: {arm}', seed=seed,
                    **{metric: (1. if metric == 'mIoU' else .01) * (50 + 10 * bool(start) + seed * (1 + bool(start)))})
               for task, (_, metric, _) in transfer.TASKS.items() for arm, (start, _) in transfer.ARMS.items() for seed in range(3)]
    text, _ = report.write(save(tmp_path / 'transfer.jsonl', results), tmp_path)
    rows = rows_of(text)[2:]
    assert len(rows) == 8
    for _, arm, metric, difference in rows:
        if arm == transfer.SCRATCH:
            assert (metric, difference) == ('51.00 ± 1.00', '')
        else:
            assert (metric, difference) == ('62.00 ± 2.00', str(report.paired([60, 62, 64], [50, 51, 52])))
