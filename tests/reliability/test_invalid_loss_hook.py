import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from runner_helpers import Model, ScalerWrapper, build, equal, hook, saved
from versions import needs_torch

from slak_mm.reliability.checkpoint_hook import newest_checkpoint
from slak_mm.reliability.invalid_loss_hook import InvalidLossError, _name_images

HOOKS = dict(checkpoint=dict(type='slak_mm.CheckpointHook', interval=1, by_epoch=False),
             check_loss=dict(type='slak_mm.CheckInvalidLossHook', patience=3))


class Spoils(Model):
    """The loss of some iterations is not finite."""

    part = 'loss'

    def __init__(self, *iterations):
        super().__init__()
        self.iterations, self.count = iterations, 0

    def forward(self, images, labels, mode='loss'):
        outputs = super().forward(images, labels, mode)
        if self.training and torch.is_grad_enabled():
            self.count += 1
            if self.count in self.iterations:
                outputs[self.part] = outputs['loss'] * float('nan')
        return outputs


@OPTIM_WRAPPERS.register_module(force=True)
class AmpLike(ScalerWrapper):
    """Has a GradScaler where AmpOptimWrapper has it."""

    loss_scaler = property(lambda self: self.scaler)


def start(folder, *iterations, **kwargs):
    return build(folder, Spoils(*iterations), hooks=[dict(interval=2, init='erk')], default_hooks=HOOKS, **kwargs)


def test_it_stops_before_the_step(tmp_path):
    good = start(tmp_path / 'good', iters=8)
    good.train()
    bad = start(tmp_path / 'bad', 5, iters=8)
    with pytest.raises(InvalidLossError, match=r'loss is nan at iteration 5 \(epoch 1, rank 0\): loss nan.*--resume'):
        bad.train()
    assert newest_checkpoint(str(tmp_path / 'bad')).endswith('iter_4.pth')
    before = saved(tmp_path / 'good', 'iter_4.pth')
    for key in ('state_dict', 'sparsity', 'optimizer'):
        assert equal(before[key], saved(tmp_path / 'bad', 'iter_4.pth')[key])
    parameters = dict(bad.model.named_parameters())
    for name in parameters:
        assert torch.equal(parameters[name], before['state_dict'][name]), (name, parameters[name], before['state_dict'][name])
    assert equal(before['sparsity'], hook(bad).sparsity.state_dict())
    assert 'parse_losses' not in vars(good.model)


def test_a_part_called_loss_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(Spoils, 'part', 'loss_aux')
    with pytest.raises(InvalidLossError, match=r'loss is nan at iteration 2 \(epoch 1, rank 0\): loss nan, loss_aux nan'):
        start(tmp_path, 2, iters=3).train()


@needs_torch('2.4')
def test_a_grad_scaler_leaves_the_step_out(tmp_path):
    optim_wrapper = dict(type='AmpLike', overflows=[])
    runner = start(tmp_path, 3, 4, iters=8, optim_wrapper=optim_wrapper)
    runner.train()
    sparsity = hook(runner).sparsity
    assert sparsity.steps == 6 and all(parameter.isfinite().all() for parameter in runner.model.parameters())
    for name, mask in sparsity.masks.active.items():
        assert (sparsity.masks.params[name][~mask.bool()] == 0).all()
    assert sparsity.masks.nonzero == 96
    with pytest.raises(InvalidLossError, match='at iteration 5'):  # the third in a row
        start(tmp_path / 'b', 3, 4, 5, iters=8, optim_wrapper=optim_wrapper).train()


class Sample:
    img_path = 'a/b.png'


def test_the_images_are_named():
    assert _name_images(dict(data_samples=[Sample(), Sample()])) == 'a/b.png, a/b.png'
    assert _name_images([torch.zeros(1)]) == 'of unknown names'
