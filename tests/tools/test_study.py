"""tools/study.py, shrunk: it ends, says the same twice, and compares what it claims to compare."""
import json
from pathlib import Path
from statistics import mean, stdev

import pytest
import warm

ROOT = Path(__file__).parents[2]
DENSE, SPARSE = ('51, dense', '7, dense'), ('51, sparse, static', '51, sparse, dynamic (random)', '51, sparse, dynamic (gradient)',
                                            '7, sparse, dynamic (random)')
pytestmark = pytest.mark.slow


def study(out, *args):
    result = warm.run(ROOT / 'tools/study.py', '--out', out, '--seeds', 2, '--epochs', 1, '--image-size', 64, '--train-images', 275,
                      '--test-images', 30, '--channels', 4, 4, 8, 8, *args)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def studied(tmp_path_factory):
    out = tmp_path_factory.mktemp('study')
    printed = study(out)
    return out, printed, json.loads((out / 'study.json').read_text())


def test_the_same_command_gives_the_same_numbers(studied, tmp_path):
    out, _, _ = studied
    study(tmp_path)
    assert (tmp_path / 'study.json').read_bytes() == (out / 'study.json').read_bytes()


def test_every_variant_runs_from_every_seed(studied):
    out, _, result = studied
    assert sorted((run['variant'], run['seed']) for run in result['runs']) == sorted((v, s) for v in DENSE + SPARSE for s in range(2))
    assert (out / 'study.png').stat().st_size > 10_000


def test_table_and_json_agree(studied):
    out, printed, result = studied
    markdown = (out / 'study.md').read_text()
    assert markdown in printed
    rows = {cells[1]: cells[2:] for cells in ([cell.strip() for cell in line.split('|')] for line in markdown.splitlines()[2:])}
    assert set(rows) == set(DENSE + SPARSE)
    runs = {name: [run for run in result['runs'] if run['variant'] == name] for name in rows}
    reference = [run['accuracy'] for run in runs['51, sparse, dynamic (random)']]
    for name, (nonzero, accuracy, difference, loss, _) in rows.items():
        accuracies, losses = ([run[key] for run in runs[name]] for key in ('accuracy', 'loss'))
        assert nonzero == f"{round(mean(run['nonzero'] for run in runs[name])):,}"
        assert accuracy == f'{mean(accuracies):.2f} ± {stdev(accuracies):.2f}' and loss == f'{mean(losses):.4f} ± {stdev(losses):.4f}'
        if name != '51, sparse, dynamic (random)':
            differences = [mine - other for mine, other in zip(accuracies, reference)]
            assert difference == f'{mean(differences):+.2f} ± {stdev(differences):.2f}'


def test_sparse_models_have_equally_many_nonzero_parameters(studied):
    _, _, result = studied
    budget = result['settings']['nonzero']
    for run in result['runs']:
        if run['variant'] in SPARSE:
            # what grew in a place without a gradient is still zero
            assert 0.995 * budget <= run['nonzero'] <= budget
        else:
            assert run['nonzero'] > 2 * budget


def test_sweep(tmp_path):
    printed = study(tmp_path, '--sweep')
    result = json.loads((tmp_path / 'sweep.json').read_text())
    names = ['static', *(f'{rate} / {interval}' for rate in (.1, .3, .5) for interval in (3, 10, 30))]
    assert [row['variant'] for row in result['summary']] == names
    assert {(run['variant'], run['seed']) for run in result['runs']} == {(name, seed) for name in names for seed in range(2)}
    static, _, row, never = result['summary'][:4]
    accuracies = {name: [run['accuracy'] for run in result['runs'] if run['variant'] == name] for name in names}
    assert row['accuracy_mean'] == mean(accuracies['0.1 / 10'])
    assert row['difference_mean'] == mean(a - b for a, b in zip(accuracies['0.1 / 10'], accuracies['static']))
    # an epoch has 11 steps: masks that would adapt every 30 are the static ones
    assert (never['interval'], never['loss_mean']) == (30, static['loss_mean']) and row['loss_mean'] != static['loss_mean']
    assert (tmp_path / 'sweep.md').read_text() in printed and (tmp_path / 'sweep.png').stat().st_size > 10_000


def test_stripes_without_unreachable_taps_compute_the_same(monkeypatch):
    import torch

    from slak_mm.analysis.studies import digits as tool
    trimmed = tool.Classifier(51, 64, (4, 4, 8, 8)).eval()
    monkeypatch.setattr(tool, 'reachable', lambda kernel_sizes, image_size: kernel_sizes)
    full = tool.Classifier(51, 64, (4, 4, 8, 8)).eval()
    state = full.state_dict()
    assert {tuple(p.shape[2:]) for name, p in state.items() if 'tall' in name and p.ndim == 4} == {(m, 3) for m in (51, 49, 47, 13)}
    for name, small in trimmed.state_dict().items():
        if small.shape == state[name].shape:
            small.copy_(state[name])
        else:
            top, left = ((b - s) // 2 for b, s in zip(state[name].shape[2:], small.shape[2:]))
            small.copy_(state[name][:, :, top:top + small.shape[2], left:left + small.shape[3]])
    torch.nn.init.zeros_(full.backbone.stages[3][0].large_kernel.small.bn.weight)  # stripes as short as it is leave no small branch
    images = torch.randn(2, 1, 64, 64)
    assert torch.allclose(trimmed(images), full(images), atol=1e-6)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Two classes of grey photos, bright and dark, five of each."""
    import numpy as np
    from PIL import Image
    folder = tmp_path_factory.mktemp('photos')
    for name, level in (('bright', 200), ('dark', 50)):
        (folder / name).mkdir()
        for i in range(5):
            noise = np.random.default_rng(i).integers(-20, 20, (36, 32, 3))
            Image.fromarray((level + noise).astype(np.uint8)).save(folder / name / f'{i}.png')
    return folder


def run_study(*args):
    options = ['train_cfg.max_epochs=2', 'param_scheduler.1.T_max=1', 'param_scheduler.1.end=2',
               'train_dataloader.dataset.pipeline.1.scale=32', 'test_dataloader.dataset.pipeline.1.scale=32',
               'test_dataloader.dataset.pipeline.2.crop_size=32', 'train_dataloader.batch_size=4',
               'default_hooks.checkpoint.interval=1']
    return warm.run(ROOT / 'tools/study.py', 'run', *args, '--channels', 4, 8, 8, 8, '--cfg-options', *options)


def test_a_study_on_photos_goes_on_where_it_stopped(photos, tmp_path):
    command = ['classification', '--data', photos, '--seeds', 1, '--jobs', 2, '--work-dir', tmp_path, '--only', 'static',
               '--only', '51, dense']
    result = run_study(*command)
    assert result.returncode == 0, result.stderr
    assert 'classification: 3 of 3 runs to make, 2 at a time' in result.stdout
    lines = (tmp_path / 'classification.jsonl').read_text().splitlines()
    found = {entry['variant']: entry for entry in map(json.loads, lines)}
    assert set(found) == {'51, sparse, static', '51, dense', '51, dense, narrower'} and len(lines) == 3
    for entry in found.values():
        digits, count = entry['right'].split('/')
        assert int(count) == 2 and 50 * bin(int(digits, 16)).count('1') == entry['accuracy/top1'] and entry['seed'] == 0
        assert set(entry['erf']) == {'trained', 'untrained'} and entry['nonzero'] <= entry['parameters']
    assert found['51, sparse, static']['nonzero'] < .7 * found['51, sparse, static']['parameters']
    # one result is lost, as by a kill while it was written: its run is not trained again, but tested
    (tmp_path / 'classification.jsonl').write_text(f'{lines[0]}\n{lines[1]}\n{lines[2][:20]}')
    result = run_study(*command)
    assert '1 of 3 runs to make' in result.stdout and result.returncode == 0, result.stderr
    again = (tmp_path / 'classification.jsonl').read_text().splitlines()
    first, second = json.loads(lines[2]), json.loads(again[2])
    assert again[:2] == lines[:2] and {**second, 'seconds': 0} == {**first, 'seconds': 0}
    # the dense one teaches
    result = run_study('distillation', '--data', photos, '--seeds', 1, '--work-dir', tmp_path, '--only', 'FD')
    assert result.returncode == 0 and 'FD, seed 0: accuracy/top1' in result.stdout, result.stdout + result.stderr
    taught = json.loads((tmp_path / 'distillation.jsonl').read_text())
    assert taught['variant'] == 'FD' and set(taught['erf']) == {'trained', 'untrained'}
    result = warm.run(ROOT / 'tools/study.py', 'report', tmp_path, '--out', tmp_path / 'report')
    assert result.returncode == 0, result.stderr
    assert '| 51, dense, narrower |' in result.stdout and (tmp_path / 'report/classification.png').stat().st_size > 5000


@pytest.mark.parametrize('args, message', [
    (['run', 'transfer'], 'give --camvid FOLDER, --bccd FOLDER, or both'),
    (['run', 'distance', '--only', '9 pixels'], '--only 9 pixels leaves no variant. There are: 24 pixels: 31, decomposed, '),
    (['report', '{tmp}'], 'has none of classification.jsonl, distance.jsonl, transfer.jsonl, distillation.jsonl'),
    (['run', 'transfer', '--bccd', '{tmp}', '--work-dir', '{tmp}'], 'run "study.py run classification" first'),
])
def test_errors_in_one_line(tmp_path, args, message):
    result = warm.run(ROOT / 'tools/study.py', *(arg.format(tmp=tmp_path) for arg in args))
    assert result.returncode and message in result.stderr and 'Traceback' not in result.stderr
