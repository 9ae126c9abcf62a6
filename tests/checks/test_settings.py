"""Settings that nothing reads, or that have no effect beside others, are named."""
import sys

import pytest
from mmengine import Config
from mmengine.config import ConfigDict
from torch import nn

from slak_mm.checks import settings
from slak_mm.checks.settings import check_custom_keys, check_settings
from slak_mm.errors import InputError

ROOT = 'configs/upernet_slak_micro_sparse_toy_ade20k.py'
DETECTOR = 'configs/cascade_mask_rcnn_slak_micro_toy_coco.py'


@pytest.fixture
def warned(monkeypatch):
    found = []
    monkeypatch.setattr(settings, '_warn', found.append)
    return found


@pytest.fixture(scope='module')
def configs(request):
    return {name: Config.fromfile(request.config.rootpath / name) for name in (ROOT, DETECTOR)}


def changed(cfg, options):
    cfg = Config(cfg.to_dict())
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('name', [ROOT, DETECTOR])
def test_ours_are_fine(configs, warned, name):
    check_settings(configs[name])
    assert warned == []


DECAY = 'optim_wrapper.paramwise_cfg'
LINE = "constructor='slak_mm.LayerDecayOptimWrapperConstructor'"
REFUSED = [
    (ROOT, {f'{DECAY}.decay_rate': .9, f'{DECAY}.decay_type': 'stage_wise', f'{DECAY}.num_layers': 6},
     'DefaultOptimWrapperConstructor does not read decay_rate, decay_type, num_layers', LINE),
    (ROOT, {f'{DECAY}.layer_decay_rate': .9}, 'does not read layer_decay_rate', LINE),
    (ROOT, {f'{DECAY}.layer_decay_rate': .9, 'optim_wrapper.constructor': 'slak_mm.LayerDecayOptimWrapperConstructor'},
     'does not read layer_decay_rate', 'decay_rate=...'),
    (ROOT, {f'{DECAY}.norm_decay_mul': 0.}, "nothing reads 'norm_decay_mul'", "Write 'norm_decay_mult'"),
    (ROOT, {DECAY: dict(custom_keys=dict(head=dict(lr_mul=10.)))}, "custom_keys['head']", "Write 'lr_mult'"),
    (ROOT, {'env_cfg.cudnn_benchmarks': True}, 'env_cfg', "Write 'cudnn_benchmark'"),
    (ROOT, {'auto_scale_lr.base_batchsize': 16}, 'auto_scale_lr', "nothing reads 'base_batchsize'"),
    (ROOT, {'default_hooks.checkpont.interval': 2}, 'default_hooks.checkpont', "Write 'checkpoint'"),
    (ROOT, {'default_hooks.checkpoint.max_keep_ckpt': 2}, 'default_hooks.checkpoint', "nothing reads 'max_keep_ckpt'"),
    (ROOT, {'train_dataloader.dataset.metainfo': dict(CLASSES=('a', 'b'))}, 'train_dataloader.dataset.metainfo', "Write 'classes'"),
    (ROOT, {'val_dataloader.dataset.data_prefix.img_paths': 'x'}, 'val_dataloader.dataset.data_prefix', "nothing reads 'img_paths'"),
    (ROOT, {'model.test_cfg.strides': (64, 64)}, 'model.test_cfg', "nothing reads 'strides'"),
    (ROOT, {'val_evaluator.iou_metric': ['mDice']}, 'val_evaluator', "Write 'iou_metrics'"),  # IoUMetric takes anything
    (DETECTOR, {'train_dataloader.dataset.filter_cfg.filter_empty_gts': True}, 'filter_cfg', "nothing reads 'filter_empty_gts'"),
    (DETECTOR, {'model.test_cfg.rcnn.max_per_image': 9}, 'model.test_cfg.rcnn', "nothing reads 'max_per_image'"),
    (DETECTOR, {'model.train_cfg.rpn_proposal.nms_prep': 9}, 'model.train_cfg.rpn_proposal', "nothing reads 'nms_prep'"),
]


@pytest.mark.parametrize('name, options, place, words', REFUSED)
def test_what_nothing_reads(configs, warned, name, options, place, words):
    cfg = changed(configs[name], options)
    with pytest.raises(InputError) as error:
        check_settings(cfg)
    assert place in str(error.value) and words in str(error.value)


@pytest.mark.parametrize('options, words', [
    ({f'{DECAY}.something_of_mine': 1}, "nothing reads 'something_of_mine'"),
    ({'custom_hooks': [dict(type='slak_mm.SparsityHook', init='checkpoint', sparsity=.4, grow=None)]}, 'does not use sparsity'),
    ({'custom_hooks': [dict(type='slak_mm.SparsityHook', grow=None, interval=5)]}, 'does not use interval'),
    ({'param_scheduler': [dict(type='PolyLR', end=10)]}, 'Set by_epoch=False'),
    ({'default_hooks.checkpoint': dict(type='CheckpointHook', interval=10, _delete_=True)}, 'nothing is saved before the end'),
])
def test_what_has_no_effect(configs, warned, options, words):
    cfg = changed(configs[ROOT], {})
    for key, value in options.items():
        if '_delete_' in str(value):
            cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=10)
        else:
            cfg.merge_from_dict({key: value})
    check_settings(cfg)
    assert len(warned) == 1 and words in warned[0]


def test_a_constructor_of_ones_own_reads_what_it_likes(configs, warned, monkeypatch):
    from mmengine.optim import DefaultOptimWrapperConstructor

    class Own(DefaultOptimWrapperConstructor):

        def add_params(self, params, module, **kwargs):
            self.rate = self.paramwise_cfg['decay_rate'], self.paramwise_cfg.special

    cfg = changed(configs[ROOT], {f'{DECAY}.decay_rate': .9, f'{DECAY}.special': 1})
    cfg.optim_wrapper.constructor = Own
    monkeypatch.setattr(sys.modules[__name__], 'Own', Own, raising=False)  # as at the top of a module
    settings._of_module.cache_clear()
    check_settings(cfg)
    assert warned == []


def test_custom_keys_that_match_nothing(warned):
    cfg = ConfigDict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys={'weight': dict(lr_mult=2.), 'query': dict(lr_mult=2.)})))
    check_custom_keys(cfg, nn.Linear(2, 2))
    assert len(warned) == 1 and 'no parameter has query in its name' in warned[0]
