"""tools/chaos.py: kills for real, and a comparison that can fail."""
import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from mmengine.logging import HistoryBuffer

from slak_mm.reliability.chaos import differences
from slak_mm.toy import ToySpec, write_ade20k, write_imagenet

ROOT = Path(__file__).parents[2]


def different(a, b):
    return list(differences(a, b))


def test_differences():
    a = dict(state_dict=dict(w=torch.zeros(3)), optimizer=dict(state={0: dict(step=1)}), meta=dict(iter=3, time='now', cfg='a'),
             message_hub=dict(log_scalars={'train/loss': HistoryBuffer([1.], [1]), 'train/time': HistoryBuffer([1.], [1]),
                                           'val/mIoU': HistoryBuffer([1.], [1])}, runtime_info=dict(iter=3)), array=np.zeros(2))
    b = copy.deepcopy(a)
    b['meta'].update(time='then', cfg='b')
    b['message_hub']['log_scalars']['train/time'] = HistoryBuffer([2.], [1])
    del b['message_hub']['log_scalars']['val/mIoU']
    assert different(a, b) == []
    b['state_dict']['w'][1] = 1e-30
    b['optimizer']['state'][0]['step'] = 2
    b['message_hub']['log_scalars']['train/loss'] = HistoryBuffer([1. + 1e-15], [1])
    b['array'] = np.zeros(2, np.float32) + 1
    b['sparsity'] = {}
    assert sorted(line.split(':')[0] for line in different(a, b)) == [
        '/array', '/message_hub/log_scalars/train/loss/0', '/optimizer/state/0/step', '/sparsity', '/state_dict/w']
    assert different(dict(a=torch.zeros(1)), dict(a=torch.zeros(1, dtype=torch.double))) == ['/a']
    assert different([1, 2], [1]) == [': 2 and 1 entries']
    assert different(1, 1.) == [': int, float']


# its trainings are forks of the tool, which has imported all; a fork server would import it anew
FORKING = f"""
import multiprocessing, sys
sys.path.insert(0, {str(ROOT / 'tools')!r})
fork = multiprocessing.get_context('fork')
multiprocessing.get_context = lambda method=None: fork
import chaos, common
common.run(chaos.main)
"""


def chaos(work_dir, config, root, kills, *options, flags=(), start=('-c', FORKING)):
    roots = [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')]
    return warm.run(*start, ROOT / f'configs/{config}.py', '--kills', kills, '--work-dir', work_dir, *flags, '--cfg-options', *roots,
                    *options)


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory):
    root = tmp_path_factory.mktemp('ade20k')
    write_ade20k(root, ToySpec(num_train=6, num_val=2))
    return root


@pytest.mark.slow
def test_segmentation(tmp_path, ade20k):
    result = chaos(tmp_path / 'runs', 'upernet_slak_micro_sparse_toy_ade20k', ade20k, 4, 'train_cfg.max_iters=24',
                   'train_cfg.val_interval=24', 'train_dataloader.num_workers=2')
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert re.search(r'4 kills \(.*2 in save', result.stdout) and 'equals that of the unbroken run, bit by bit' in result.stdout
    result = chaos(tmp_path / 'runs', 'upernet_slak_micro_sparse_toy_ade20k', ade20k, 4)
    assert result.returncode == 1 and 'is not empty' in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_classification(tmp_path):
    write_imagenet(tmp_path / 'imagenet', ToySpec(num_train=16, num_val=2))
    result = chaos(tmp_path / 'runs', 'slak_micro_toy_in1k', tmp_path / 'imagenet', 2, 'train_cfg.max_epochs=6',
                   'default_hooks.logger.interval=2', flags=['--amp'], start=[ROOT / 'tools/chaos.py'])
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert re.search(r'2 kills \(.*1 in save', result.stdout) and 'equals that of the unbroken run, bit by bit' in result.stdout


@pytest.mark.slow
def test_it_can_fail(tmp_path, ade20k):
    result = chaos(tmp_path, 'upernet_slak_micro_sparse_toy_ade20k', ade20k, 2, 'train_cfg.max_iters=24', 'train_cfg.val_interval=24',
                   'default_hooks.exact_resume=None')
    assert result.returncode == 1 and 'differs from the unbroken run in:\n/' in result.stdout
    assert result.stderr.splitlines()[-1].endswith('entries differ.')
