"""The runs that a study plans compare what they claim to compare."""
import json

import pytest
import torch
from mmengine.config import Config

from slak_mm.analysis.studies import distance, distillation, photos, transfer
from slak_mm.analysis.studies.execute import Executor, run_folder
from slak_mm.analysis.studies.plan import Trained, classifier_size
from slak_mm.errors import InputError
from slak_mm.models.build import build_model
from slak_mm.sparsity import DynamicSparsity
from slak_mm.zoo import find_config

pytestmark = pytest.mark.slow
CONFIGS = find_config('slak_t_300e_in1k.py').parent


@pytest.fixture
def data(tmp_path):
    for split, name in (('train', 'hat'), ('train', 'shoes'), ('test', 'hat'), ('test', 'shoes')):
        for i in range(10):
            path = tmp_path / 'photos' / split / name / f'{i}.JPG'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path / 'photos'


def written(run, tmp_path):
    run.write(tmp_path / 'config.py', CONFIGS, '{0.study}: {0.variant} {0.seed}.pth'.format)
    return Config.fromfile(tmp_path / 'config.py')


@pytest.mark.parametrize('name', photos.VARIANTS)
def test_every_sparse_variant_is_as_large_as_the_reference(name, data, tmp_path):
    run = next(run for run in photos.plan(data, tmp_path, folds=1) if run.variant == name)
    cfg = written(run, tmp_path)
    model = build_model(cfg)
    total = sum(p.numel() for p in model.parameters())
    size = classifier_size(photos.CHANNELS, 51, 2)
    budget = size.total - round(.4 * size.maskable)
    hooks = [dict(hook) for hook in cfg.get('custom_hooks', [])]
    if not hooks:
        assert name == photos.DENSE and total == size.total or name == '51, dense, narrower' and .97 * budget < total <= budget
        return
    options = {key: value for key, value in hooks[0].items() if key != 'type'}
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    DynamicSparsity(model, 100, **dict(options, init='erk')).initialize()
    nonzero = sum(int(p.count_nonzero()) for p in model.parameters())
    if '2:4' in name:  # all matrices, half of each
        assert budget < nonzero < .75 * size.total
    elif 'wider' in name:
        assert total > 1.5 * size.total and .93 < nonzero / size.total < 1
    else:
        assert abs(nonzero / budget - 1) < .005


def test_each_photo_is_tested_once(data, tmp_path):
    classes, count = photos.write_folds(data, tmp_path / 'folds')
    assert (classes, count) == (['hat', 'shoes'], 40)
    tested = []
    for fold in range(5):
        train, test = ((tmp_path / f'folds/{fold}_{part}.txt').read_text().splitlines() for part in ('train', 'test'))
        assert not set(train) & set(test) and len(train) + len(test) == 40
        assert sorted(line.rsplit(' ', 1)[1] for line in test) == ['0'] * 4 + ['1'] * 4
        assert all(classes[int(line[-1])] in line for line in test)
        tested += test
    assert len(set(tested)) == len(tested) == 40


def test_a_folder_without_classes_is_refused(tmp_path):
    (tmp_path / 'a.jpg').touch()
    with pytest.raises(InputError, match='at least two classes; found 1 of 1'):
        photos.list_photos(tmp_path)


def test_a_run_is_told_by_what_settles_its_numbers(data, tmp_path):
    runs, elsewhere = photos.plan(data, tmp_path / 'a'), photos.plan(data, tmp_path / 'b')
    assert [run.settings for run in runs] == [run.settings for run in elsewhere]
    assert len({run.settings for run in runs}) == len({run.key for run in runs}) == len(runs) == 5 * len(photos.VARIANTS)


def test_distance_compares_kernels_at_each_side(tmp_path):
    runs = distance.plan(seeds=1)
    assert len(runs) == len({run.variant for run in runs}) == 3 * 8
    for run in runs:
        cfg = written(run, tmp_path)
        datasets = [cfg[f'{part}_dataloader'].dataset for part in ('train', 'test')]
        assert {str(dataset.side) for dataset in datasets} == {run.variant.split()[0]} and datasets[0].seed != datasets[1].seed
        backbone = build_model(cfg).backbone
        assert [len(stage) for stage in backbone.stages] == ([1] if 'one block' in run.variant else [1, 1, 2, 1])
        shapes = {name: tuple(p.shape[2:]) for name, p in backbone.stages[0].named_parameters() if p.ndim == 4}
        kernel = int(run.variant.split()[2].rstrip(','))
        assert max(max(shape) for shape in shapes.values()) == kernel
        assert any('full' in name for name in shapes) == ('square' in run.variant)


def test_what_a_run_starts_from_is_there_before_the_first_one_begins(data, tmp_path):
    """An interrupted run leaves a checkpoint, too. The start of a run that has its result may be gone."""
    runs = distillation.plan(data, tmp_path)
    for seed in range(5):
        folder = run_folder(tmp_path, photos.STUDY, photos.DENSE, seed)
        (folder / 'test').mkdir(parents=True)
        (folder / 'last_checkpoint').write_text(f'{seed}.pth')
    executor = Executor(tmp_path, tmp_path, tmp_path / 'distillation.jsonl')
    assert executor.pending(runs) == runs
    runs[5].write(tmp_path / 'config.py', CONFIGS, executor._find)
    assert Config.fromfile(tmp_path / 'config.py').model.teacher.init_cfg.checkpoint == '1.pth'
    (folder.parent / f'{folder.name[:-1]}3/test').rmdir()
    with pytest.raises(InputError, match="'51, dense', fold 3, is not trained .*, or not to its end: run"):
        executor.pending(runs)
    ended = [run for run in runs if run.seed == 3]
    executor.results.write_text(''.join(json.dumps(dict(zip(('study', 'variant', 'seed'), run.key), settings=run.settings, options=[]))
                                        + '\n' for run in ended))
    assert executor.pending(runs) == [run for run in runs if run.seed != 3]


def test_distillation_compares_students_of_one_kind(data, tmp_path):
    runs = distillation.plan(data, tmp_path)
    assert len(runs) == len({run.key for run in runs}) == len({run.settings for run in runs}) == 20
    sizes = set()
    for run in runs[4:8]:
        cfg = written(run, tmp_path)
        model = build_model(cfg)
        sizes.add(sum(p.numel() for p in model.parameters()))
        assert type(model.backbone).__name__ == 'ConvNeXt'
        assert run.variant == distillation.ALONE or cfg.model.teacher.init_cfg.checkpoint == 'classification: 51, dense 1.pth'
        assert run.needs == [Trained(photos.STUDY, photos.DENSE, 1)] * (run.variant != distillation.ALONE)
    assert len(sizes) == 1


def test_transfer_starts_from_the_classifiers(data, tmp_path):
    runs = transfer.plan(tmp_path / 'camvid', tmp_path / 'bccd')
    assert len(runs) == 3 * 2 * 4
    for run in runs[8:16]:
        cfg = written(run, tmp_path)
        start = cfg.model.backbone.init_cfg
        if 'scratch' in run.variant:
            assert start.type == 'Xavier'
        else:
            before = photos.REFERENCE if 'sparse' in run.variant else photos.DENSE
            assert start == dict(type='Pretrained', checkpoint=f'classification: {before} {run.seed}.pth')
        assert [hook.init for hook in cfg.custom_hooks] == ['checkpoint'] * ('kept' in run.variant)
        assert cfg.train_dataloader.dataset.data_root == str(tmp_path / ('camvid' if 'CamVid' in run.variant else 'bccd'))
    assert len(transfer.plan(None, tmp_path)) == 12
