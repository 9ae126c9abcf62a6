"""The ImageNet-1K configs against the recipes."""
import copy
import functools
import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmpretrain.registry import BATCH_AUGMENTS, MODELS, TRANSFORMS

from slak_mm.compat.versions import find_config
from slak_mm.models.large_kernel import LargeKernel
from slak_mm.sparsity import maskable
from slak_mm.training import SparseExponentialMovingAverage

ROOT = Path(__file__).parents[2]
T, S, B = 50_703_838, 91_131_820, 157_950_792
# name: arch, drop path, epochs, images per GPU, options of the backbone, sparsity, dense parameters, paper's millions of non-zeros
PRETRAINING = {
    't_300e': ('tiny', .1, 300, 128, {}, .4, T, 30),
    's_300e': ('small', .4, 300, 64, {}, .4, S, 55),
    'b_300e': ('base', .5, 300, 32, {}, .4, B, 95),
    't_120e': ('tiny', .1, 120, 128, {}, .4, T, 30),
    't_k7_120e': ('tiny', .1, 120, 128, dict(kernel_sizes=(7, 7, 7, 7)), .4, None, 29),
    't_k31_120e': ('tiny', .1, 120, 128, dict(kernel_sizes=(31, 29, 27, 13)), .4, None, 30),
    't_k61_120e': ('tiny', .1, 120, 128, dict(kernel_sizes=(61, 59, 57, 13)), .4, None, 31),
    't_n3_120e': ('tiny', .1, 120, 128, dict(small_kernel_size=3), .4, None, None),
    't_n7_120e': ('tiny', .1, 120, 128, dict(small_kernel_size=7), .4, None, None),
    't_s20_w11_120e': ('tiny', .1, 120, 128, dict(width_factor=1.1), .2, None, 29),
    't_s55_w15_120e': ('tiny', .1, 120, 128, dict(width_factor=1.5), .55, None, 30),
    't_s70_w19_120e': ('tiny', .1, 120, 128, dict(width_factor=1.9), .7, None, 32),
    't_s82_w25_120e': ('tiny', .1, 120, 128, dict(width_factor=2.5), .82, None, 32),
}
# Tables 1, 2, 13 and 14. name: kernel sizes, form, sparsity, paper's millions of non-zeros
K31, K51, K61 = (31, 29, 27, 13), (51, 49, 47, 13), (61, 59, 57, 13)
ABLATIONS = {
    '': ((7, 7, 7, 7), 'naive', 0, 29),
    'naive_k31': (K31, 'naive', 0, 32),
    'naive_k51': (K51, 'naive', 0, 38),
    'naive_k61': (K61, 'naive', 0, 43),
    'reparam_k31': (K31, 'reparam', 0, 32),
    'reparam_k51': (K51, 'reparam', 0, 38),
    'reparam_k61': (K61, 'reparam', 0, 43),
    'decomposed_k7': ((7, 7, 7, 7), 'decomposed', 0, 29),
    'decomposed_k31': (K31, 'decomposed', 0, 30),
    'decomposed_k51': (K51, 'decomposed', 0, 31),
    'decomposed_k61': (K61, 'decomposed', 0, 31),
    'sparse_k7': ((7, 7, 7, 7), 'decomposed', .4, 17),
    'sparse_k31': (K31, 'decomposed', .4, 18),
    'sparse_k51': (K51, 'decomposed', .4, 18),
    'sparse_k61': (K61, 'decomposed', .4, 19),
    'sequential': (K51, 'sequential', 0, None),
    'dilated': ((19, 17, 17, 5), 'dilated', 0, None),
    'stacked': ((21, 21, 21, 21), 'stacked', 0, None),
    'k31_k7_k7_k7': ((31, 7, 7, 7), ('reparam', 'naive', 'naive', 'naive'), 0, None),
    'k7_k29_k7_k7': ((7, 29, 7, 7), ('naive', 'reparam', 'naive', 'naive'), 0, None),
    'k7_k7_k27_k7': ((7, 7, 27, 7), ('naive', 'naive', 'reparam', 'naive'), 0, None),
    'k7_k7_k7_k13': ((7, 7, 7, 13), ('naive', 'naive', 'naive', 'reparam'), 0, None),
    'k7_k7_k27_k13': ((7, 7, 27, 13), ('naive', 'naive', 'reparam', 'reparam'), 0, None),
}
ABLATION_FILES = {name: '_'.join(filter(None, ('convnext_t', name, '120e'))) for name in ABLATIONS}


@functools.lru_cache(maxsize=None)
def read(name):
    return Config.fromfile(find_config(f'{name if name.startswith("convnext") else f"slak_{name}"}_in1k.py'))


@functools.lru_cache(maxsize=None)
def build(name):
    cfg = copy.deepcopy(read(name))  # mmpretrain changes it
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        return MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))


def test_every_config_is_tested():
    names = {*(f'slak_{name}' for name in (*PRETRAINING, 'b_384', 'micro_toy')), *ABLATION_FILES.values()}  # micro: test_chaos.py
    files = [*ROOT.glob('configs/*_in1k.py'), *ROOT.glob('configs/ablations/*_in1k.py')]
    assert {f'{name}_in1k.py' for name in names} == {path.name for path in files}


@pytest.mark.parametrize('name', PRETRAINING)
def test_recipe(name):
    arch, drop_path, epochs, batch, options, sparsity, dense, nonzero = PRETRAINING[name]
    cfg = read(name)
    assert cfg.model.backbone == dict(type='slak_mm.SLaK', arch=arch, drop_path_rate=drop_path, **options)
    assert cfg.model.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=.1, mode='original')
    assert cfg.train_cfg.max_epochs == epochs and cfg.train_dataloader.batch_size == batch and cfg.train_dataloader.drop_last
    optim = cfg.optim_wrapper
    assert optim.optimizer == dict(type='AdamW', lr=4e-3, betas=(.9, .999), eps=1e-8, weight_decay=.05)
    assert optim.type == 'OptimWrapper' and 'clip_grad' not in optim and 'constructor' not in optim
    gpus = dict(tiny=4, small=8, base=16)[arch]
    assert gpus * batch * optim.accumulative_counts == cfg.auto_scale_lr.base_batch_size == 4096 and not cfg.auto_scale_lr.enable
    sparse, ema = cfg.custom_hooks
    assert sparse == dict(type='slak_mm.SparsityHook', sparsity=sparsity, init='snip', prune='magnitude', grow='random', interval=100,
                          prune_rate=.3)
    assert (ema.type, ema.ema_type, ema.momentum) == ('EMAHook', 'slak_mm.SparseExponentialMovingAverage', 1e-4)
    assert ema.update_buffers and ema.priority == 'ABOVE_NORMAL'  # before it is validated, after the masks

    model = build(name)
    assert model.head.in_channels == model.backbone.channels[-1] and model.head.num_classes == 1000
    assert model.backbone.stages[0][0].gamma.shape and cfg.model.backbone.get('layer_scale_init_value', 1e-6) == 1e-6
    total = sum(param.numel() for param in model.parameters())
    assert dense is None or total == dense
    masked = sum(param.numel() for param in maskable(model).values())
    kept = total - masked + round((1 - sparsity) * masked)
    assert nonzero is None or kept / 1e6 == pytest.approx(nonzero, abs=.6), kept


@pytest.mark.parametrize('name', ABLATIONS)
def test_ablations(name):
    kernel_sizes, form, sparsity, nonzero = ABLATIONS[name]
    cfg, slak = read(ABLATION_FILES[name]), read('t_120e')
    model = build(ABLATION_FILES[name])
    forms = (form, ) * 4 if isinstance(form, str) else form
    for i, stage in enumerate(model.backbone.stages):
        layer = LargeKernel(model.backbone.channels[i], kernel_sizes[i], 5, forms[i], dict(type='BN'))
        assert stage[-1].large_kernel.state_dict().keys() == layer.state_dict().keys()
        assert [p.shape for p in stage[-1].large_kernel.parameters()] == [p.shape for p in layer.parameters()]
    assert model.backbone.channels == (96, 192, 384, 768) and cfg.model.backbone.drop_path_rate == .1

    same = set(slak) - {'model', 'custom_hooks'}
    assert {key: cfg[key] for key in same} == {key: slak[key] for key in same}
    assert cfg.model.head == dict(slak.model.head, in_channels=768)
    *sparse, ema = cfg.custom_hooks
    assert sparse == (slak.custom_hooks[:1] if sparsity else [])
    assert ema == dict(slak.custom_hooks[1], **({} if sparsity else dict(interval=cfg.optim_wrapper.accumulative_counts)))

    total = sum(param.numel() for param in model.parameters())
    masked = sum(param.numel() for param in maskable(model).values())
    assert nonzero is None or (total - sparsity * masked) / 1e6 == pytest.approx(nonzero, rel=.02, abs=.6)


@pytest.mark.parametrize('name', ABLATIONS)
def test_ablations_run_on_a_micro_network(name):
    cfg = copy.deepcopy(read(ABLATION_FILES[name]))
    cfg.model.backbone.update(arch=dict(depths=(1, 1, 1, 1), channels=(4, 6, 8, 10)), norm_cfg=dict(type='BN'))
    cfg.model.head.update(in_channels=10)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    images = torch.randn(2, 3, 64, 64)
    model.train()(images)
    logits = model.eval()(images)
    assert logits.shape == (2, 1000)
    model.backbone.switch_to_deploy()
    torch.testing.assert_close(model(images), logits, rtol=1e-3, atol=1e-4)


def test_the_average_beside_a_dense_model_takes_each_optimizer_step():
    ema = read(ABLATION_FILES['']).custom_hooks[0]
    weights = torch.nn.Linear(1, 1, bias=False)
    average = SparseExponentialMovingAverage(weights, momentum=ema.momentum, interval=ema.interval, update_buffers=ema.update_buffers)
    weights.weight.data.fill_(0.)
    average.update_parameters(weights)  # starts there
    weights.weight.data.fill_(1.)
    for _ in range(16):
        average.update_parameters(weights)
    assert average.module.weight.item() == pytest.approx(1 - (1 - 1e-4)**2, rel=1e-3)


def test_data():
    cfg = read('t_300e')
    pipeline = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(pipeline) == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing', 'PackInputs']
    crop, erase = pipeline['RandomResizedCrop'], pipeline['RandomErasing']
    assert (crop.scale, crop.interpolation, crop.backend, pipeline['RandomFlip'].prob) == (224, 'bicubic', 'pillow', .5)
    augment = pipeline['RandAugment']  # rand-m9-mstd0.5-inc1
    assert (augment.policies, augment.num_policies, augment.magnitude_level, augment.magnitude_std) == ('timm_increasing', 2, 9, .5)
    assert augment.hparams.interpolation == 'bicubic'
    assert (erase.erase_prob, erase.mode, erase.min_area_ratio, erase.max_area_ratio) == (.25, 'rand', .02, 1 / 3)
    assert TRANSFORMS.build(dict(erase)).aspect_range == (3 / 10, 10 / 3)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        _, resize, crop, _ = loader.dataset.pipeline
        assert (resize.type, resize.scale, resize.edge, resize.interpolation) == ('ResizeEdge', 256, 'short', 'bicubic')
        assert (crop.type, crop.crop_size) == ('CenterCrop', 224)
        assert loader.dataset.split == 'val'
    assert cfg.val_evaluator.topk == (1, 5)


def test_each_batch_is_mixed_in_one_of_two_ways_with_equal_probability():
    mixes = build('t_300e').data_preprocessor.batch_augments
    assert [(type(mix).__name__, mix.alpha) for mix in mixes.augments] == [('Mixup', .8), ('CutMix', 1.)]
    assert mixes.probs is None and BATCH_AUGMENTS.get('Mixup') is type(mixes.augments[0])


@pytest.mark.parametrize('name', ['t_300e', 'b_300e'])
def test_weight_decay_of_each_parameter(name):
    cfg = read(name)
    model = build(name)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {param: name for name, param in model.named_parameters()}
    seen = {param: group for group in optimizer.param_groups for param in group['params']}
    assert seen.keys() == names.keys()
    for param, group in seen.items():
        assert group['lr'] == 4e-3 and group['weight_decay'] == (.05 if param.ndim > 1 else 0), names[param]


def our_curve(cfg, epoch_length, epochs=None):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(scheduler), default_args=dict(optimizer=optimizer, epoch_length=epoch_length))
                  for scheduler in cfg.param_scheduler]
    curve = []
    for _ in range((epochs or cfg.train_cfg.max_epochs) * epoch_length):
        curve.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    return np.array(curve)


def authors_curve(base, final, epochs, steps_per_epoch, warmup_epochs):
    """``utils.cosine_scheduler`` of the authors."""
    warmup = np.linspace(0, base, warmup_epochs * steps_per_epoch)
    steps = (epochs - warmup_epochs) * steps_per_epoch
    return np.concatenate([warmup, [final + .5 * (base - final) * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]])


@pytest.mark.parametrize('name, epochs', [('t_300e', 300), ('t_120e', 120)])
def test_learning_rate_is_the_authors(name, epochs):
    ours = our_curve(read(name), 312)  # 32 GPUs x 128
    np.testing.assert_allclose(ours, authors_curve(4e-3, 1e-6, epochs, 312, 20), rtol=0, atol=4.1e-9)  # 4e-9 at the start


def test_learning_rate_under_accumulation_is_within_a_step_of_the_authors():
    ours = our_curve(read('t_300e'), 8 * 312, epochs=25)[7::8]
    np.testing.assert_allclose(ours, authors_curve(4e-3, 1e-6, 300, 312, 20)[:len(ours)], rtol=0, atol=6.5e-7)


@pytest.mark.parametrize('name', ['t_300e', 't_120e', 'b_384'])
def test_a_run_may_be_shorter_than_its_warmup(name):
    assert len(our_curve(read(name), epoch_length=2, epochs=1)) == 2


def test_automatic_scaling_counts_accumulation(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    cfg = copy.deepcopy(read('t_300e'))
    importlib.import_module('train').set_auto_scale_lr(cfg)
    # mmengine multiplies lr by (GPUs x batch_size) / base_batch_size
    assert 4 * 128 / cfg.auto_scale_lr.base_batch_size == 1 and cfg.auto_scale_lr.enable


def test_fine_tuning_at_384():
    cfg = read('b_384')
    assert cfg.model.backbone == dict(type='slak_mm.SLaK', arch='base', drop_path_rate=.8) and cfg.model.train_cfg is None
    assert cfg.load_from == 'checkpoints/slak_b_300e_in1k.pth'
    assert cfg.custom_hooks == [dict(type='slak_mm.SparsityHook', init='checkpoint', grow=None)]
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=5e-5, betas=(.9, .999), eps=1e-8, weight_decay=1e-8)
    assert 8 * cfg.train_dataloader.batch_size * cfg.optim_wrapper.accumulative_counts == cfg.auto_scale_lr.base_batch_size == 512
    assert cfg.train_cfg.max_epochs == 30
    np.testing.assert_allclose(our_curve(cfg, 100), authors_curve(5e-5, 1e-6, 30, 100, 0), rtol=0, atol=1e-12)
    train, test = (loader.dataset.pipeline for loader in (cfg.train_dataloader, cfg.test_dataloader))
    assert [step.type for step in train] == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing',
                                             'PackInputs']
    assert train[1].scale == 384 and (test[1].type, test[1].scale, test[1].interpolation) == ('Resize', 384, 'bicubic')
    assert cfg.val_dataloader.dataset.pipeline == test and not TRANSFORMS.build(dict(test[1])).keep_ratio

    model = build('b_384')
    assert model.head.in_channels == 1331 and model.data_preprocessor.batch_augments is None
    names = {param: name for name, param in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    for group in groups:
        for param in group['params']:
            layer_id = model.backbone.get_layer_depth(names[param], 'backbone.')[0]
            assert group['lr'] == pytest.approx(5e-5 * .7**(13 - layer_id))
            assert group['weight_decay'] == (1e-8 if param.ndim > 1 else 0)
    assert sum(len(group['params']) for group in groups) == len(names)
