"""Nothing is lost: torn files, full disks, weights that are not finite, gradients that wait."""
import logging
import os
import shutil

import pytest
import torch
from mmengine.hooks import Hook
from runner_helpers import build, run, same_training, saved

from slak_mm.checkpoints import CheckpointError
from slak_mm.compat import load_weights_only
from slak_mm.reliability.checkpoint_hook import newest_checkpoint

CHECKPOINT = dict(type='slak_mm.CheckpointHook', interval=2, by_epoch=False)


def hooks(**options):
    return dict(default_hooks=dict(checkpoint=dict(CHECKPOINT, **options), exact_resume=dict(type='slak_mm.ExactResumeHook')))


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    where = data.find(load_weights_only(path, 'cpu')['state_dict']['fc1.weight'].numpy().tobytes()[:16])
    assert where > 0
    data[where + 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize('damage', [cut, flip_a_bit, lambda path: path.write_bytes(b''), os.remove],
                         ids=['cut', 'bit', 'empty', 'gone'])
def test_a_damaged_last_file_is_skipped(tmp_path, monkeypatch, damage):
    run(tmp_path / 'a', iters=8, **hooks())
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    (tmp_path / 'b/iter_8.pth').unlink()
    (tmp_path / 'b/last_checkpoint').write_text(str(tmp_path / 'b/iter_6.pth'))
    lines = []
    monkeypatch.setattr('slak_mm.reliability.checkpoint_hook.print_log', lambda line, _, level: lines.append((line, level)))
    damage(tmp_path / 'b/iter_6.pth')
    runner = build(tmp_path / 'b', iters=8, resume=True, **hooks())
    runner.train()
    assert runner._load_from.endswith('iter_4.pth')
    (line, level), = lines
    assert 'iter_6.pth is skipped' in line and level == logging.WARNING
    assert same_training(saved(tmp_path / 'a', 'iter_8.pth'), saved(tmp_path / 'b', 'iter_8.pth'))


@pytest.mark.parametrize('content', [None, '', 'iter_', '/elsewhere/iter_4.pth'])
def test_a_torn_last_checkpoint_file(tmp_path, content):
    run(tmp_path, iters=4, **hooks())
    torch.save({}, tmp_path / 'best_loss.pth')  # has no optimizer, and is not looked at
    (tmp_path / 'last_checkpoint').unlink() if content is None else (tmp_path / 'last_checkpoint').write_text(content)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_4.pth')


def test_nothing_to_resume(tmp_path):
    assert newest_checkpoint(str(tmp_path)) is None
    runner = run(tmp_path, iters=2, resume=True, **hooks())
    assert runner.iter == 2
    cut(tmp_path / 'iter_2.pth')
    with pytest.raises(CheckpointError, match='None of the 1 checkpoints .* --resume CKPT'):
        run(tmp_path, iters=4, resume=True, **hooks())


class FullDisk(Hook):
    """From an iteration on, files end after 1000 bytes."""

    def __init__(self, monkeypatch, begin):
        self.monkeypatch, self.begin = monkeypatch, begin

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.begin:
            def fail(*args):
                raise OSError(28, 'No space left on device')
            self.monkeypatch.setattr(os, 'fsync', fail)


def test_a_full_disk_keeps_the_last_file(tmp_path, monkeypatch):
    runner = build(tmp_path, iters=8, **hooks(max_keep_ckpts=1))
    runner.register_hook(FullDisk(monkeypatch, 4))
    with pytest.raises(CheckpointError, match='iter_6.pth could not be saved: No space left on device'):
        runner.train()
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['iter_4.pth']
    monkeypatch.undo()
    runner = run(tmp_path, iters=8, resume=True, **hooks(max_keep_ckpts=1))
    assert runner.iter == 8 and [path.name for path in tmp_path.glob('*.pth')] == ['iter_8.pth']


class Diverges(Hook):

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3:
            runner.model.fc2.bias.data[1] = float('nan')


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    runner = build(tmp_path, iters=8, hooks=[dict(interval=100)], **hooks(max_keep_ckpts=1))
    runner.register_hook(Diverges())
    with pytest.raises(CheckpointError, match='is not finite after iteration 4'):
        runner.train()
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')


@pytest.mark.parametrize('stop', [1, 2, 3, 4, 5])
def test_saved_between_two_optimizer_steps(tmp_path, stop):
    run(tmp_path / 'a', iters=7, accumulate=3, **hooks(interval=1))
    name = f'iter_{stop}.pth'
    assert ('accumulated_gradients' in saved(tmp_path / 'a', name)) == (stop % 3 != 0)
    run(tmp_path / 'b', iters=7, accumulate=3, resume=str(tmp_path / 'a' / name), **hooks(interval=1))
    assert same_training(saved(tmp_path / 'a', 'iter_7.pth'), saved(tmp_path / 'b', 'iter_7.pth'))


class Scores(Hook):
    """A validation that gets better and better."""

    priority = 'HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.iter + 1) % 2 == 0:
            runner.call_hook('after_val_epoch', metrics=dict(accuracy=float(runner.iter)))


def test_the_best_file_is_there_until_a_better_one_is(tmp_path, monkeypatch):
    options = hooks(save_best='accuracy', rule='greater')
    runner = build(tmp_path / 'a', iters=8, **options)
    runner.register_hook(Scores())
    runner.train()
    assert [path.name for path in (tmp_path / 'a').glob('best*')] == ['best_accuracy_iter_7.pth']
    assert 'accumulated_gradients' not in saved(tmp_path / 'a', 'best_accuracy_iter_7.pth')
    runner = build(tmp_path / 'b', iters=8, **options)
    runner.register_hook(Scores())
    runner.register_hook(FullDisk(monkeypatch, 4), priority='VERY_HIGH')
    with pytest.raises(CheckpointError, match='best_accuracy_iter_5.pth could not be saved'):
        runner.train()
    assert [path.name for path in (tmp_path / 'b').glob('best*')] == ['best_accuracy_iter_3.pth']


class ValidatesTwice(Scores):

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 3:
            for accuracy in (1., 2.):
                runner.call_hook('after_val_epoch', metrics=dict(accuracy=accuracy))


def test_a_better_file_of_the_same_name_is_kept(tmp_path):
    runner = build(tmp_path, iters=4, **hooks(save_best='accuracy', rule='greater'))
    runner.register_hook(ValidatesTwice())
    runner.train()
    assert [path.name for path in tmp_path.glob('best*')] == ['best_accuracy_iter_3.pth']


class Factored(torch.optim.SGD):
    """Like Adafactor, it keeps a second moment of the parameters with one dimension, and none in their shape of the others."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group['params']:
                if param.dim() == 1:
                    self.state[param]['exp_avg_sq'] = param.grad.square()
                else:
                    self.state[param]['exp_avg_sq_row'] = param.grad.square().mean(1)
        return super().step(closure)


def test_other_optimizers_may_keep_what_they_like(tmp_path):
    options = dict(optimizer=dict(type=Factored, lr=.1), iters=4, **hooks())
    run(tmp_path / 'a', **options)
    resumed = run(tmp_path / 'b', resume=str(tmp_path / 'a/iter_2.pth'), **options)
    assert resumed.iter == 4 and same_training(saved(tmp_path / 'a', 'iter_4.pth'), saved(tmp_path / 'b', 'iter_4.pth'))
