"""Pictures and curves of a sparse training, as TensorBoard and files have them."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from runner_helpers import Data
from torch import nn

import slak_mm
from slak_mm.analysis.mask_pictures import ACTIVE, PALETTE, canvas, read_snapshot
from slak_mm.errors import InputError

CURVES = 'density', 'ever_active', 'prune_rate'


class Net(BaseModel):

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.large_kernel, self.fc = nn.Linear(8, 36), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Linear(36, 2)

    def init_weights(self):
        pass

    def forward(self, images, labels, mode='loss'):
        x = self.large_kernel(self.stem(images).view(-1, 4, 3, 3)).flatten(1)
        return dict(loss=nn.functional.cross_entropy(self.fc(x), labels))


def run(tmp_path, hook, sparsity=dict(type='slak_mm.SparsityHook', sparsity=.5, interval=3, init='uniform'), accumulate=1,
        backends=(dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend'))):
    runner = Runner(
        Net(), str(tmp_path), train_dataloader=dict(dataset=Data(), batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler'),
                                               collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=False, max_iters=12), optim_wrapper=dict(optimizer=dict(type='SGD', lr=.1),
                                                                            accumulative_counts=accumulate),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1),
                           checkpoint=dict(type='slak_mm.CheckpointHook', interval=1, by_epoch=False)),
        custom_hooks=[hook, *([sparsity] if sparsity else [])], randomness=dict(seed=0), log_level='ERROR',
        visualizer=dict(type='Visualizer', vis_backends=[dict(backend) for backend in backends]),
        experiment_name=f'run_{tmp_path.name}', cfg=Config(dict(work_dir=str(tmp_path))))
    runner.train()
    return runner


def log_of(tmp_path):
    return [json.loads(line) for line in next(tmp_path.rglob('scalars.json')).read_text().splitlines()]


def files(tmp_path):
    return {int(path.stem.rpartition('_')[2]): path for path in tmp_path.rglob('masks_large_kernel_*.png')}


def test_a_picture_after_each_adaptation_is_what_the_checkpoint_has(tmp_path):
    run(tmp_path, dict(type='slak_mm.MaskPictureHook', kernels=3, scale=2))
    pictures = files(tmp_path)
    assert sorted(pictures) == [0, 3, 6, 9]
    for step, path in pictures.items():
        if step:
            layer = read_snapshot(tmp_path / f'iter_{step}.pth').layers['large_kernel.weight']
            expected = PALETTE[canvas([[kernel[0] for kernel in layer[:3]]], gap=1)].repeat(2, 0).repeat(2, 1)
            assert np.array_equal(cv2.imread(str(path))[..., ::-1], expected) and (layer != ACTIVE).any()


def test_every_so_many_optimizer_steps(tmp_path):
    run(tmp_path, dict(type='slak_mm.MaskPictureHook', interval=2), accumulate=2)
    assert sorted(files(tmp_path)) == [0, 4, 8, 12]  # iterations, of two a step


def test_tensorboard_has_the_pictures_and_the_numbers_of_the_log(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    run(tmp_path, dict(type='slak_mm.MaskPictureHook'))
    events = accumulator.EventAccumulator(str(next(tmp_path.rglob('events.out*')).parent), size_guidance=dict(images=0, scalars=0))
    events.Reload()
    assert [event.step for event in events.Images('masks_large_kernel')] == [0, 3, 6, 9]
    local = cv2.imread(str(files(tmp_path)[9]))
    stored = cv2.imdecode(np.frombuffer(events.Images('masks_large_kernel')[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(local, stored)
    log = log_of(tmp_path)
    for name in CURVES:
        assert [event.value for event in events.Scalars(f'train/{name}' if f'train/{name}' in events.Tags()['scalars'] else name)] \
            == pytest.approx([line[name] for line in log])
    assert len({line['ever_active'] for line in log}) > 2


@pytest.mark.parametrize('hook, sparsity, message', [
    (dict(), None, 'which custom_hooks has not'),
    (dict(layers=['small']), dict(type='slak_mm.SparsityHook', init='uniform'), 'no depthwise layer with a mask matches small'),
])
def test_nothing_to_draw_is_an_error(tmp_path, hook, sparsity, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, dict(hook, type='slak_mm.MaskPictureHook'), sparsity)


@pytest.mark.parametrize('options', [dict(interval=0), dict(kernels=1.5), dict(scale=True)])
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ValueError, match='must be an integer from 1'):
        slak_mm.MaskPictureHook(**options)


def test_mlflow_has_the_pictures_and_the_numbers_of_the_log(tmp_path):
    """Its file store; needs mlflow-skinny, which the environment does not bring."""
    mlflow = pytest.importorskip('mlflow')
    store = f'file://{tmp_path}/mlruns'
    run(tmp_path, dict(type='slak_mm.MaskPictureHook'), backends=[
        dict(type='LocalVisBackend'), dict(type='MLflowVisBackend', exp_name='masks', tracking_uri=store)])
    client = mlflow.MlflowClient(store)
    found, = client.search_runs([client.get_experiment_by_name('masks').experiment_id])
    for name in CURVES:
        stored = [point.value for point in client.get_metric_history(found.info.run_id, name)]
        assert stored == pytest.approx([line[name] for line in log_of(tmp_path)])
    pictures = {artifact.path for artifact in client.list_artifacts(found.info.run_id)}
    assert pictures >= {f'masks_large_kernel_{step}.png' for step in (0, 3, 6, 9)}


def test_clearml_has_the_pictures_and_the_numbers_of_the_log(tmp_path, monkeypatch):
    """Offline; the environment does not bring clearml."""
    clearml = pytest.importorskip('clearml')
    monkeypatch.setenv('CLEARML_CACHE_DIR', str(tmp_path / 'cache'))
    clearml.Task.set_offline(True)
    task = dict(project_name='masks', task_name='run', auto_connect_frameworks=False)
    runner = run(tmp_path, dict(type='slak_mm.MaskPictureHook'), backends=[
        dict(type='LocalVisBackend'), dict(type='ClearMLVisBackend', init_kwargs=task)])
    folder = Path(runner.visualizer.get_backend('ClearMLVisBackend')._task.get_offline_mode_folder())
    events = [event for line in (folder / 'metrics.jsonl').read_text().splitlines() for event in json.loads(line)]
    for name in CURVES:
        assert [event['value'] for event in events if event['metric'] == name] == [line[name] for line in log_of(tmp_path)]
    pictures = {event['iter']: cv2.imread(event['url']) for event in events if event['metric'] == 'masks_large_kernel'}
    assert sorted(pictures) == [0, 3, 6, 9]
    for step, picture in pictures.items():  # JPEG: about the same
        assert np.abs(picture.astype(int) - cv2.imread(str(files(tmp_path)[step]))).mean() < 10


def test_swanlab_has_the_pictures_and_the_numbers_of_the_log(tmp_path):
    """On this machine alone; the environment does not bring swanlab, whose backend for mmengine this is."""
    swanlab = pytest.importorskip('swanlab')
    pytest.importorskip('swanlab.integration.mmengine')
    run(tmp_path, dict(type='slak_mm.MaskPictureHook'), backends=[
        dict(type='LocalVisBackend'), dict(type='SwanlabVisBackend', init_kwargs=dict(project='masks', mode='local'))])
    swanlab.finish()
    stored = [[json.loads(line)['data'] for line in path.read_text().splitlines()] for path in tmp_path.rglob('logs/*/*.log')]
    for name in CURVES:  # it numbers them
        assert [line[name] for line in log_of(tmp_path)] in stored
    pictures = sorted(tmp_path.rglob('media/image/*.png'))
    assert [int(path.name.partition('-')[0]) for path in pictures] == [0, 3, 6, 9]
    for step, path in zip((0, 3, 6, 9), pictures):
        assert np.array_equal(cv2.imread(str(path)), cv2.imread(str(files(tmp_path)[step])))


@pytest.mark.parametrize('shape, size', [((9, 1, 5, 3), (7, 4 * 5)), ((9, 1, 3, 5), (4 * 5, 7)), ((2, 1, 3, 3), (5, 2 * 5))])
def test_kernels_are_put_where_they_have_room(shape, size):
    assert slak_mm.MaskPictureHook(kernels=4, scale=2)._picture(np.ones(shape, np.uint8)).shape == (2 * size[0], 2 * size[1], 3)
