"""tools/dist_train.sh and dist_test.sh as a user runs them, on CPUs: the results of one process, also when processes die or change."""
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from micro_configs import shrink
from mmengine import Config

from slak_mm.sparsity.masks import unpack
from slak_mm.toy import ToySpec, write_imagenet
from slak_mm.training import distributed

ROOT = Path(__file__).parents[2]
BATCH = 8
pytestmark = pytest.mark.slow


def command(tool, config, *args, processes=1):
    """``dist_train.sh CONFIG PROCESSES ...``, or ``train.py CONFIG ...`` for one; the same for test."""
    if processes == 1:
        return list(map(str, [warm.python(), '-W', 'ignore', ROOT / f'tools/{tool}.py', config, *args]))
    position = dict(train=0, test=1)[tool]  # of GPUS: after the checkpoint
    return list(map(str, [ROOT / f'tools/dist_{tool}.sh', config, *args[:position], processes, *args[position:]]))


def environment(python=None):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    return os.environ | dict(PYTHON=python or warm.python(), PYTHONWARNINGS='ignore', CUDA_VISIBLE_DEVICES='', PORT=str(port))


def run(*args, **kwargs):
    """Returns what the processes printed."""
    result = subprocess.run(command(*args, **kwargs), capture_output=True, text=True, env=environment(), timeout=300)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout + result.stderr


def batch(processes, total=BATCH):
    return ['--cfg-options', f'train_dataloader.batch_size={total // processes}']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('distributed')
    write_imagenet(root / 'data', ToySpec(num_train=2 * BATCH, num_val=6, size=(64, 80)))
    return root


@pytest.fixture(scope='module')
def config(folder):
    """Pre-training with random augmentation, shrunk to two epochs of two iterations, an adaptation in each but the last.

    Without what depends on the part of the batch that a process sees: batch norm, mixup and drop path. With groups of the optimizer
    that FSDP can tell.
    """
    cfg = shrink(Config.fromfile(ROOT / 'configs/slak_t_300e_in1k.py'))
    cfg.merge_from_dict({f'{split}_dataloader.dataset.data_root': str(folder / 'data') for split in ('train', 'val', 'test')})
    cfg.model.train_cfg = None
    cfg.model.backbone.update(kernel_sizes=(7, 7, 5, 3), small_kernel_size=3,  # that reach the maps: other taps are masked first
                              norm_cfg=dict(type='GN', num_groups=1), drop_path_rate=0.)
    cfg.optim_wrapper.update(accumulative_counts=1, paramwise_cfg=None)
    cfg.param_scheduler = []
    cfg.custom_hooks[0].interval = 1
    cfg.merge_from_dict({'train_cfg.max_epochs': 2, 'randomness.seed': 0})
    cfg.dump(folder / 'micro.py')
    return folder / 'micro.py'


@pytest.fixture(scope='module')
def train(folder, config):
    """A run that was never broken, by number of processes: its work dir."""

    @lru_cache(maxsize=None)
    def unbroken(processes):
        run('train', config, '--work-dir', folder / str(processes), *batch(processes), processes=processes)
        return folder / str(processes)

    return unbroken


def resume(config, source, work_dir, processes, *options, total=BATCH):
    return run('train', config, '--work-dir', work_dir, '--resume', source / 'epoch_1.pth', *batch(processes, total), *options,
               processes=processes)


def load(work_dir):
    """Masks and weights (not averaged) after the second epoch."""
    saved = torch.load(work_dir / 'epoch_2.pth', weights_only=True)
    assert saved['sparsity']['steps'] == 4
    bits = {name: entry['bits'] is not None and unpack(entry['bits'][0], entry['shape'])
            for name, entry in saved['sparsity']['masks'].items()}
    weights = {name.removeprefix('module.'): value for name, value in saved.get('ema_state_dict', saved['state_dict']).items()
               if name.endswith(('weight', 'bias', 'gamma'))}
    return bits, weights


def assert_same_training(work_dir, other):
    """Equal up to the order in which float32 gradients are summed: about 2e-6. Near ties in a ranking may flip."""
    (masks, weights), (other_masks, other_weights) = load(work_dir), load(other)
    assert masks.keys() == other_masks.keys() and weights.keys() == other_weights.keys()
    sparse = [name for name, mask in masks.items() if mask is not False]
    assert sparse == [name for name, mask in other_masks.items() if mask is not False] != []
    differing = sum(int((masks[name] != other_masks[name]).sum()) for name in sparse)
    total = sum(masks[name].numel() for name in sparse)
    assert differing < 1e-3 * total
    for name in sparse:
        assert masks[name].sum() == other_masks[name].sum() and (weights[name][~masks[name]] == 0).all()
    apart = sum(int(((value - other_weights[name]).abs() > 1e-4).sum()) for name, value in weights.items())
    assert apart < 1e-3 * total


@pytest.mark.parametrize('processes', [2, 4])
def test_several_processes_train_as_one(train, processes):
    assert_same_training(train(processes), train(1))


@pytest.mark.parametrize('processes', [1, 4])
def test_resume_with_another_number_of_processes(config, train, tmp_path, processes):
    log = resume(config, train(2), tmp_path, processes)
    assert 'resumed epoch: 1, iter: 2' in log and 'images are seen twice' not in log
    assert_same_training(tmp_path, train(1))


def test_resume_with_another_global_batch_warns_and_trains(config, train, tmp_path):
    log = resume(config, train(2), tmp_path, 1, total=BATCH // 2)
    assert log.count('For the same run, set train_dataloader.batch_size=8') == 1 and (tmp_path / 'epoch_2.pth').exists()


def test_test(config, train, tmp_path):
    scores = []
    for processes in (1, 2):
        out = tmp_path / f'{processes}.pkl'
        log = run('test', config, train(1) / 'epoch_2.pth', '--work-dir', tmp_path, '--out', out, processes=processes)
        assert 'accuracy/top1' in log
        scores.append(np.stack([result['pred_score'] for result in pickle.loads(out.read_bytes())]))
    assert len(scores[0]) == 6
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_a_dead_process_ends_the_job(config, tmp_path):
    """All of it in new interpreters."""
    log = tmp_path / 'log'
    options = ['train_cfg.max_epochs=10000', 'default_hooks.checkpoint.interval=10000', 'model.backbone.norm_cfg.type=SyncBN',
               'model.backbone.norm_cfg._delete_=True']
    with log.open('w') as file:
        job = subprocess.Popen(command('train', config, '--work-dir', tmp_path, *batch(2), *options, processes=2),
                               stdout=file, stderr=file, env=environment(sys.executable))
        try:
            wait_for(lambda: 'Epoch(train)' in log.read_text() or job.poll() is not None)
            assert job.poll() is None, log.read_text()[-3000:]
            victim = next(pid for pid in children(job.pid) if b'\0RANK=1\0' in Path(f'/proc/{pid}/environ').read_bytes())
            os.kill(victim, signal.SIGKILL)
            assert job.wait(60) != 0
        finally:
            job.kill()
    text = log.read_text()
    assert f'rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: {victim})' in text and 'Signal 9 (SIGKILL) received' in text
    assert text.count('layers became BN, and each process NORMALISES BY ITS PART OF THE BATCH') == 1


def children(pid):
    return list(map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split()))


def wait_for(condition, seconds=120):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(.2)


def test_a_failure_is_the_last_thing_that_is_said(config, tmp_path):
    arguments = command('train', config, '--work-dir', tmp_path, *batch(2), 'model.backbone.kernel_sizes=(2,7,5,3)', processes=2)
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=300)
    assert result.returncode != 0
    assert 'must be a positive odd integer, got 2' in result.stderr.rpartition('Root Cause')[2]


@pytest.mark.parametrize('strategy', ['DDPStrategy', 'FSDPStrategy'])
def test_flexible_runner(config, train, tmp_path, strategy):
    """What two processes began, four finish; FSDP spreads each weight over them."""
    cfg = Config.fromfile(config)
    cfg.update(runner_type='FlexibleRunner', strategy=dict(type=strategy))
    if strategy == 'FSDPStrategy':
        cfg.custom_hooks = cfg.custom_hooks[:1]  # without EMA
    cfg.dump(tmp_path / 'flexible.py')
    run('train', tmp_path / 'flexible.py', '--work-dir', tmp_path / '2', *batch(2), processes=2)
    assert_same_training(tmp_path / '2', train(1))
    resume(tmp_path / 'flexible.py', tmp_path / '2', tmp_path / '4', 4)
    assert_same_training(tmp_path / '4', train(1))


@pytest.mark.parametrize('launcher, missing', [('pytorch', 'missing: RANK'), ('slurm', 'missing: none')])
def test_a_launch_that_cannot_work(monkeypatch, launcher, missing):
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')
    for name in distributed.VARIABLES:
        monkeypatch.setenv(name, '0')
    if launcher == 'pytorch':
        monkeypatch.delenv('RANK')
    with pytest.raises(distributed.LaunchError, match=f'{missing}.*dist_train.sh'):
        distributed.prepare_cpu_launch(Config(dict(launcher=launcher)))
