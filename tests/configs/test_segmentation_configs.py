"""The ADE20K configs against the recipes."""
import copy
import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmseg.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
# name: arch, channels, drop path, lr, layers of the stage-wise decay, iterations, warmup, sparse
ADE20K = {
    't_160k': ('tiny', [124, 249, 499, 998], .4, 1e-4, 6, 160000, 1500, True),
    's_160k': ('small', [124, 249, 499, 998], .3, 1e-4, 12, 160000, 1500, True),
    'b_160k': ('base', [166, 332, 665, 1331], .4, 1e-4, 12, 160000, 1500, True),
    't_80k': ('tiny', [124, 249, 499, 998], .1, 2e-4, None, 80000, 800, False),
}


@functools.lru_cache(maxsize=None)
def read(name):
    return Config.fromfile(CONFIGS / f'upernet_slak_{name}_ade20k.py')


@pytest.mark.parametrize('name', ADE20K)
def test_recipe(name):
    arch, channels, drop_path, lr, num_layers, iters, _, sparse = ADE20K[name]
    cfg = read(name)
    model, train = cfg.model, cfg.train_dataloader
    assert (model.backbone.arch, model.backbone.drop_path_rate) == (arch, drop_path)
    assert model.decode_head.in_channels == channels and model.auxiliary_head.in_channels == channels[2]
    assert (model.decode_head.channels, model.decode_head.num_classes, model.auxiliary_head.num_classes) == (512, 150, 150)
    assert model.decode_head.pool_scales == (1, 2, 3, 6) and model.decode_head.norm_cfg.type == 'SyncBN'
    auxiliary = model.auxiliary_head
    assert (auxiliary.channels, auxiliary.num_convs, auxiliary.loss_decode.loss_weight) == (256, 1, .4)
    assert dict(model.test_cfg) == dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    assert dict(cfg.optim_wrapper.optimizer) == dict(type='AdamW', lr=lr, betas=(.9, .999), weight_decay=.05)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.train_cfg.max_iters == iters and train.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 16
    steps = {step.type: step for step in train.dataset.pipeline}
    assert (steps['RandomResize'].scale, steps['RandomResize'].ratio_range) == ((2048, 512), (.5, 2.))
    assert (steps['RandomCrop'].crop_size, steps['RandomCrop'].cat_max_ratio) == ((512, 512), .75)
    assert steps['RandomFlip'].prob == .5 and 'PhotoMetricDistortion' in steps
    hooks = [(hook.type, hook.init, hook.grow) for hook in cfg.get('custom_hooks', [])]
    assert hooks == [('slak_mm.SparsityHook', 'checkpoint', None)] * sparse


@pytest.mark.parametrize('name', ADE20K)
def test_learning_rate_of_each_parameter(name):
    _, _, _, lr, num_layers, *_ = ADE20K[name]
    cfg = read(name)
    with DefaultScope.overwrite_default_scope('mmseg'):
        with torch.device('meta'):
            model = MODELS.build(copy.deepcopy(cfg.model))
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {param: name for name, param in model.named_parameters()}
    seen = set()
    for group in optimizer.param_groups:
        for param in group['params']:
            parts = names[param].split('.')
            layer_id = {'downsample_layers': 0, 'stages': 1}.get(parts[1]) if parts[0] == 'backbone' else None
            layer_id = layer_id and layer_id + int(parts[2])
            if parts[:2] == ['backbone', 'downsample_layers']:
                layer_id = 0
            scale = 1 if num_layers is None or layer_id is None else .9**(num_layers + 1 - layer_id)
            assert group['lr'] == pytest.approx(lr * scale), names[param]
            assert group.get('lr_scale', 1) == pytest.approx(scale)
            assert group['weight_decay'] == (0 if param.ndim == 1 else .05), names[param]
            seen.add(param)
    assert seen == set(names)


def old_curve(lr, iters, warmup, i):
    """mmcv 1: poly of power 1 to 0 from iteration 0, times a linear warmup from 1e-6."""
    poly = lr * (1 - i / iters)
    return poly * (1 - (1 - i / warmup) * (1 - 1e-6)) if i < warmup else poly


@pytest.mark.slow
@pytest.mark.parametrize('name', ['t_160k', 't_80k'])
def test_schedule_is_the_old_curve(name):
    *_, lr, _, iters, warmup, _ = ADE20K[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer)) for scheduler in read(name).param_scheduler]
    for i in range(iters):
        assert optimizer.param_groups[0]['lr'] == pytest.approx(old_curve(lr, iters, warmup, i), rel=1e-6, abs=1e-14), i
        for scheduler in schedulers:
            scheduler.step()


def test_the_demo_names_the_toy_classes():
    from slak_mm.toy import TOY_CLASSES
    cfg = Config.fromfile(CONFIGS / 'upernet_slak_micro_toy_ade20k.py')
    assert cfg.classes == tuple(toy.ade20k for toy in TOY_CLASSES)
    widths = [int(1.3 * c) for c in cfg.model.backbone.arch.channels]
    assert cfg.model.decode_head.in_channels == widths and cfg.model.auxiliary_head.in_channels == widths[2]


@pytest.mark.parametrize('base', ['upernet_slak_t_160k_ade20k.py', '_base_/models/upernet_slak.py'])
def test_users_inherit_our_configs(tmp_path, base):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'slak_mm::{base}'\nmodel = dict(decode_head=dict(num_classes=3))\n")
    model = Config.fromfile(path).model
    assert model.backbone.type == 'slak_mm.SLaK' and model.decode_head.num_classes == 3
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmseg'):
        MODELS.build(model)


@pytest.mark.slow
def test_a_machine_with_mmsegmentation_alone():
    script = f'''
import sys
sys.modules.update(mmdet=None, mmpretrain=None)
import slak_mm, torch
from mmengine import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
cfg = Config.fromfile({str(CONFIGS / 'upernet_slak_t_160k_ade20k.py')!r})
init_default_scope(cfg.default_scope)
cfg.model.test_cfg.update(crop_size=(64, 64), stride=(48, 48))
model = MODELS.build(cfg.model).eval()
print(tuple(model(torch.zeros(1, 3, 64, 64)).shape))
assert sys.modules['mmdet'] is None and sys.modules['mmpretrain'] is None
'''
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert '(1, 150, 16, 16)' in result.stdout
