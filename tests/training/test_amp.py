"""--amp on a CPU: bfloat16 in forward passes, float32 in all that is kept; runs resume bit by bit."""
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from runner_helpers import Model, build, hook, run, same_training, saved

from slak_mm.errors import InputError
from slak_mm.training.amp import prepare_cpu_amp
from slak_mm.training.options import set_amp

AMP = dict(type='slak_mm.CPUAmpOptimWrapper')


class Watched(Model):
    """Notes the type of what its first layer computes."""

    def __init__(self):
        super().__init__()
        self.dtypes = []
        self.fc1.register_forward_hook(lambda layer, inputs, out: self.dtypes.append(out.dtype))


def test_weights_and_moments_are_float32(tmp_path):
    runner = build(tmp_path, Watched(), optim_wrapper=dict(AMP, clip_grad=dict(max_norm=1.)), accumulate=2, ema=dict(momentum=.1))
    runner.train()
    model = runner.model
    assert model.dtypes.count(torch.bfloat16) == 8 and set(model.dtypes[:-8]) == {torch.float32}  # SNIP is in float32
    state = runner.optim_wrapper.optimizer.state
    for parameter in model.parameters():
        assert {tensor.dtype for tensor in (parameter, *state[parameter].values())} == {torch.float32}
    masks = hook(runner).sparsity.masks
    assert masks.active and all((masks.params[name][~mask] == 0).all() for name, mask in masks.active.items())
    assert all(tensor.dtype != torch.bfloat16 for tensor in saved(tmp_path, 'iter_8.pth')['state_dict'].values())


def test_it_resumes_bit_by_bit_and_differs_from_float32(tmp_path):
    options = dict(default_hooks=dict(exact_resume=dict(type='slak_mm.ExactResumeHook')))
    for name, wrapper in (('whole', AMP), ('fp32', dict(type='OptimWrapper'))):
        run(tmp_path / name, optim_wrapper=wrapper, **options)
    run(tmp_path / 'resumed', optim_wrapper=AMP, resume=str(tmp_path / 'whole/iter_4.pth'), **options)
    whole, resumed, fp32 = (saved(tmp_path / name, 'iter_8.pth') for name in ('whole', 'resumed', 'fp32'))
    assert same_training(whole, resumed) and not same_training(whole, fp32)


@pytest.mark.parametrize('given, scope', [(dict(type='OptimWrapper'), 'mmseg'), (dict(type='AmpOptimWrapper', dtype='float16'), None),
                                          (dict(type=AmpOptimWrapper, use_fsdp=True), 'mmdet'),
                                          (dict(type='AmpOptimWrapper', _scope_='mmseg'), 'mmengine'), ({}, 'mmdet')])
def test_a_config_in_any_style(given, scope):
    cfg = Config(dict(optim_wrapper=dict(given, optimizer=dict(type='SGD', lr=1.)), val_cfg=dict(fp16=True), default_scope=scope))
    set_amp(cfg)
    prepare_cpu_amp(cfg)
    wrapper = cfg.optim_wrapper
    assert wrapper.pop('_scope_', 'mmseg') == 'mmseg' and not cfg.val_cfg
    assert wrapper == dict(type='slak_mm.CPUAmpOptimWrapper', optimizer=dict(type='SGD', lr=1.))


def test_other_wrappers_and_accelerators_are_left_alone(monkeypatch):
    cfg = Config(dict(optim_wrapper=dict(type='ApexOptimWrapper')))
    with pytest.raises(InputError, match='--amp turns OptimWrapper into AmpOptimWrapper; the config has ApexOptimWrapper'):
        set_amp(cfg)
    prepare_cpu_amp(cfg)
    assert cfg.optim_wrapper.type == 'ApexOptimWrapper'
    monkeypatch.setattr('slak_mm.training.amp.get_device', lambda: 'cuda')
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    set_amp(cfg)
    prepare_cpu_amp(cfg)
    assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')
