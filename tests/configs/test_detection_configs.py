"""The VOC and COCO configs against the recipes, and as a user runs them."""
import importlib.util
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import warm
from mmdet.registry import MODELS
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import Runner

from slak_mm.toy import TOY_CLASSES, ToySpec, write_coco, write_voc07

ROOT = Path(__file__).parents[2]
MIM = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim'
VOC = 'faster_rcnn_slak_t_36e_voc07'
# name: pre-training, arch, channels, drop path, decay rate, layers, epochs, steps, parameters (dense)
COCO = {
    't_1x': ('t_120e', 'tiny', [124, 249, 499, 998], .4, .7, 6, 12, [8, 11], 107_925_768),
    't_3x': ('t_300e', 'tiny', [124, 249, 499, 998], .4, .7, 6, 36, [27, 33], 107_925_768),
    's_3x': ('s_300e', 'small', [124, 249, 499, 998], .6, .7, 12, 36, [27, 33], 148_353_750),
    'b_3x': ('b_300e', 'base', [166, 332, 665, 1331], .7, .8, 12, 36, [27, 33], 215_000_048),
}


@lru_cache(maxsize=None)
def read(name):
    return Config.fromfile(ROOT / 'configs' / f'{f"cascade_mask_rcnn_slak_{name}_coco" if name in COCO else name}.py')


@lru_cache(maxsize=None)
def build(name):
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(read(name).model)


@pytest.fixture(scope='module')
def convnext():
    """mmdet's own config of the recipe that the paper follows."""
    path = MIM / 'configs/convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'
    return Config.fromfile(path, import_custom_modules=False)


def check_common(name, pretrained):
    cfg = read(name)
    assert cfg.pretrained == f'checkpoints/slak_{pretrained}_in1k.pth'
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16) and cfg.train_dataloader.batch_size == 2
    assert [(hook.type, hook.init, hook.grow) for hook in cfg.custom_hooks] == [('slak_mm.SparsityHook', 'checkpoint', None)]
    backbone = cfg.model.backbone
    assert (backbone.out_indices, backbone.gap_before_final_norm, backbone.layer_scale_init_value) == ((0, 1, 2, 3), False, 1.)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53] and preprocessor.pad_size_divisor == 32
    assert cfg.test_dataloader.dataset.pipeline[1] == dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    return cfg


def check_multi_scale(pipeline):
    flip, choice = pipeline[2:4]
    short = [dict(type='RandomChoiceResize', scales=[(s, 1333) for s in range(480, 801, 32)], keep_ratio=True)]
    crop = [
        dict(type='RandomChoiceResize', scales=[(s, 1333) for s in (400, 500, 600)], keep_ratio=True),
        dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True)
    ]
    assert flip == dict(type='RandomFlip', prob=.5)
    assert choice == dict(type='RandomChoice', transforms=[short, crop + short])


@pytest.mark.parametrize('name', COCO)
def test_coco_recipe(name):
    pretrained, arch, channels, drop_path, decay_rate, num_layers, epochs, steps, _ = COCO[name]
    cfg = check_common(name, pretrained)
    assert (cfg.model.backbone.arch, cfg.model.backbone.drop_path_rate, cfg.model.neck.in_channels) == (arch, drop_path, channels)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=2e-4, betas=(.9, .999), weight_decay=.05)
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=decay_rate, decay_type='layer_wise', num_layers=num_layers)
    assert cfg.train_cfg.max_epochs == epochs and cfg.param_scheduler[1].milestones == steps
    check_multi_scale(cfg.train_dataloader.dataset.pipeline)
    assert cfg.val_evaluator.metric == ['bbox', 'segm']
    heads = cfg.model.roi_head.bbox_head
    assert [head.bbox_coder.target_stds for head in heads] == [[.1, .1, .2, .2], [.05, .05, .1, .1], [.033, .033, .067, .067]]
    assert cfg.model.rpn_head.loss_bbox == dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.)


def test_all_but_the_backbone_is_what_mmdet_has_for_convnext(convnext):
    cfg = read('t_3x')
    for part in ('data_preprocessor', 'rpn_head', 'roi_head', 'train_cfg', 'test_cfg'):
        assert cfg.model[part] == convnext.model[part], part
    assert cfg.model.neck == dict(convnext.model.neck, in_channels=[124, 249, 499, 998])
    ours, theirs = cfg.train_dataloader.dataset.pipeline, convnext.train_dataloader.dataset.pipeline
    assert ours[1:] == theirs[1:]
    assert cfg.test_dataloader.dataset.pipeline == convnext.test_dataloader.dataset.pipeline


def test_voc_recipe():
    cfg = check_common(VOC, 't_120e')
    assert (cfg.model.backbone.arch, cfg.model.backbone.drop_path_rate) == ('tiny', .2)
    assert cfg.model.neck.in_channels == [124, 249, 499, 998] and cfg.model.roi_head.bbox_head.num_classes == 20
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(.9, .999), weight_decay=.05)
    assert cfg.train_cfg.max_epochs == 36 and cfg.param_scheduler[1].milestones == [27, 33]
    dataset = cfg.train_dataloader.dataset
    assert (dataset.type, dataset.ann_file) == ('VOCDataset', 'VOC2007/ImageSets/Main/trainval.txt')
    assert 'dataset' not in dataset and 'datasets' not in dataset and 'bbox_min_size' not in dataset.filter_cfg
    assert cfg.test_dataloader.dataset.ann_file == 'VOC2007/ImageSets/Main/test.txt'
    check_multi_scale(dataset.pipeline)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert (evaluator.type, evaluator.metric, evaluator.eval_mode) == ('VOCMetric', 'mAP', '11points')


def layer_id(name, num_layers):
    parts = name.split('.')
    if parts[:2] == ['backbone', 'downsample_layers']:
        return (0, 2, 3, num_layers)[int(parts[2])]
    if parts[:2] == ['backbone', 'stages']:
        return (1, 2, 3 + int(parts[3]) // 3, num_layers)[int(parts[2])]
    return num_layers + 1


@pytest.mark.parametrize('name', [*COCO, VOC])
def test_learning_rate_of_each_parameter(name):
    cfg, model = read(name), build(name)
    with DefaultScope.overwrite_default_scope('mmdet'):
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay_rate, num_layers = COCO[name][4:6] if name in COCO else (1, 6)
    scales = {param: decay_rate**(num_layers + 1 - layer_id(key, num_layers)) for key, param in model.named_parameters()}
    found = {param: group for group in optimizer.param_groups for param in group['params']}
    assert found.keys() == scales.keys()
    for param, group in found.items():
        assert group['lr'] == pytest.approx(cfg.optim_wrapper.optimizer.lr * scales[param])
        assert group.get('lr_scale', 1) == pytest.approx(scales[param])
        assert group['weight_decay'] == (0 if param.ndim == 1 else .05)
    if name.startswith('t_'):
        assert sorted(set(scales.values())) == pytest.approx([.08235, .11765, .16807, .2401, .343, .49, .7, 1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name, warmup', [('t_1x', 500), ('t_3x', 500), (VOC, 1000)])
def test_schedule_is_the_old_curve(name, warmup, iters_per_epoch=300):
    """mmcv 1: steps by epoch, times a linear warmup from .001."""
    cfg = read(name)
    lr, milestones = cfg.optim_wrapper.optimizer.lr, cfg.param_scheduler[1].milestones
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer)) for scheduler in cfg.param_scheduler]
    for i in range(cfg.train_cfg.max_epochs * iters_per_epoch):
        epoch = i // iters_per_epoch
        old = lr * .1**sum(epoch >= milestone for milestone in milestones)
        old *= 1 - (1 - min(i / warmup, 1)) * (1 - .001)
        assert optimizer.param_groups[0]['lr'] == pytest.approx(old, rel=1e-6), i
        schedulers[0].step()
        if (i + 1) % iters_per_epoch == 0:
            schedulers[1].step()


# docs/detection.md: dense, and with 40% of the backbone's weights at zero
@pytest.mark.parametrize('name, dense, sparse', [(VOC, 67_139_786, 47.3), ('t_1x', COCO['t_1x'][-1], 88.1),
                                                 ('t_3x', COCO['t_3x'][-1], 88.1), ('s_3x', COCO['s_3x'][-1], 112.4),
                                                 ('b_3x', COCO['b_3x'][-1], 152.5)])
def test_number_of_parameters(name, dense, sparse):
    total = sum(param.numel() for param in build(name).parameters())
    maskable = sum(param.numel() for param in build(name).backbone.parameters() if param.ndim > 1)
    assert total == dense
    assert (total - .4 * maskable) / 1e6 == pytest.approx(sparse, abs=.05)


def test_the_demo_names_the_toy_classes():
    cfg = read('cascade_mask_rcnn_slak_micro_toy_coco')
    assert cfg.classes == tuple(toy.coco for toy in TOY_CLASSES if toy.coco)
    assert cfg.model.neck.in_channels == [int(1.3 * c) for c in cfg.model.backbone.arch.channels]


@pytest.mark.parametrize('base', ['cascade_mask_rcnn_slak_t_1x_coco.py', '_base_/models/cascade_mask_rcnn_slak.py'])
def test_users_inherit_our_configs(tmp_path, base):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'slak_mm::{base}'\nmodel = dict(neck=dict(num_outs=4))\n")
    model = Config.fromfile(path).model
    assert model.backbone.type == 'slak_mm.SLaK' and model.neck.num_outs == 4
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
        MODELS.build(model)


def data_options(root):
    options = {f'{split}_dataloader.dataset.data_root': str(root) for split in ('train', 'val', 'test')}
    if (root / 'annotations').exists():
        options.update({f'{split}_evaluator.ann_file': f'{root}/annotations/instances_val2017.json' for split in ('val', 'test')})
    return options


def small(name, height=64, width=80):
    """Options that keep the model and shrink images and numbers of regions."""
    transforms = 'train_dataloader.dataset.pipeline.3.transforms'
    options = {
        f'{transforms}.1.1.crop_size': (height * 3 // 4, width * 3 // 4), 'model.train_cfg.rpn_proposal.max_per_img': 64,
        'model.test_cfg.rpn.max_per_img': 32, 'model.test_cfg.rcnn.max_per_img': 10, 'model.test_cfg.rcnn.score_thr': 0.
    }
    options.update({f'{transforms}.{step}.scales': [(height, width)] for step in ('0.0', '1.0', '1.2')})
    options.update({f'{split}_dataloader.dataset.pipeline.1.scale': (width, height) for split in ('val', 'test')})
    options.update({f'model.train_cfg.rcnn{stage}.sampler.num': 16 for stage in ([''] if name == VOC else ['.0', '.1', '.2'])})
    return options


@pytest.mark.slow
def test_a_sparse_fine_tuning_keeps_each_zero(tmp_path, official):
    """Of the checkpoint, through 20 iterations, in the model and in the saved file."""
    write_voc07(tmp_path, ToySpec(num_train=20, num_val=2, size=(64, 80)))
    cfg = Config(read(VOC).to_dict())
    cfg.merge_from_dict({
        **data_options(tmp_path), **small(VOC), 'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False, 'train_cfg.max_epochs': 2, 'default_hooks.checkpoint.interval': 2,
        'optim_wrapper.optimizer.lr': 1e-2, 'model.neck.in_channels': [10, 15, 20, 26], 'model.neck.out_channels': 16,
        'model.rpn_head.in_channels': 16, 'model.rpn_head.feat_channels': 16, 'model.roi_head.bbox_head.in_channels': 16,
        'model.roi_head.bbox_head.fc_out_channels': 16, 'model.roi_head.bbox_roi_extractor.out_channels': 16
    })
    cfg.update(work_dir=str(tmp_path), experiment_name=tmp_path.name, val_dataloader=None, val_cfg=None, val_evaluator=None)
    cfg.model.backbone.arch = dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20))
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(official))
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 20
    backbone = build_micro_backbone(official)
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['state_dict']
    zeros = 0
    for name, param in runner.model.backbone.named_parameters():
        if param.ndim > 1:
            zero = backbone[name] == 0
            assert (param[zero] == 0).all() and (saved[f'backbone.{name}'][zero] == 0).all(), name
            assert not torch.equal(param, backbone[name]), name
            zeros += int(zero.sum())
    assert zeros > 10_000


def build_micro_backbone(official):
    from slak_mm.models import SLaK
    arch = dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20))
    backbone = SLaK(arch, init_cfg=dict(type='Pretrained', checkpoint=str(official)))
    backbone.init_weights()
    return dict(backbone.named_parameters())


def call(tool, *args, ok=True, new=False):
    """Runs a tool, in a ``new`` interpreter or in a warm one; returns what it printed."""
    if new:
        command = [sys.executable, '-W', 'ignore', str(tool), *map(str, args)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    else:
        result = warm.run(tool, *args, cwd=ROOT)
    assert (result.returncode == 0) == ok, (result.stdout + result.stderr)[-3000:]
    return result.stdout + result.stderr


def cfg_options(**options):
    return ['--cfg-options', *(f'{key}={value}'.replace(' ', '') for key, value in options.items())]


@pytest.mark.slow
@pytest.mark.parametrize('name, write, metrics', [(VOC, write_voc07, ['pascal_voc/mAP']),
                                                  ('t_1x', write_coco, ['coco/bbox_mAP', 'coco/segm_mAP'])])
def test_the_full_models(name, write, metrics, work_dir):
    """An iteration, validation, checkpoint; of one of them resumption and test as well."""
    data = work_dir / 'data'
    write(data, ToySpec(num_train=2, num_val=1))
    config, options = read(name).filename, {**data_options(data), **small(name), 'default_hooks.checkpoint.max_keep_ckpts': 1}
    log = call(ROOT / 'tools/train.py', config, '--work-dir', work_dir, '--from-scratch',
               *cfg_options(**options, **{'train_cfg.max_epochs': 1}))
    assert 'THE BACKBONE STARTS FROM RANDOM WEIGHTS' in log and 'Epoch(train) [1][1/1]' in log
    assert all(metric in log for metric in metrics) and (work_dir / 'epoch_1.pth').exists()
    if name == VOC:
        return
    log = call(ROOT / 'tools/train.py', config, '--work-dir', work_dir, '--resume',
               *cfg_options(**options, **{'train_cfg.max_epochs': 2}))
    assert 'resumed epoch: 1, iter: 1' in log and (work_dir / 'epoch_2.pth').exists()
    log = call(ROOT / 'tools/test.py', config, work_dir / 'epoch_2.pth', '--work-dir', work_dir, *cfg_options(**options))
    assert all(metric in log for metric in metrics)


@pytest.mark.slow
def test_stock_tools_of_mmdetection(tmp_path, official):
    """A user's config that names type='slak_mm.SLaK' and no custom_imports."""
    write_coco(tmp_path, ToySpec(num_train=4, num_val=2, size=(64, 80)))
    config = tmp_path / 'mine.py'
    config.write_text(f"""
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/datasets/coco_detection.py',
          'mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py']
model = dict(
    backbone=dict(_delete_=True, type='slak_mm.SLaK', arch=dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20)),
                  out_indices=(0, 1, 2, 3), gap_before_final_norm=False,
                  init_cfg=dict(type='Pretrained', checkpoint='{official}')),
    neck=dict(in_channels=[10, 15, 20, 26], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=16)),
    test_cfg=dict(rcnn=dict(score_thr=0.)))
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
""")
    scale = {f'{split}_dataloader.dataset.pipeline.{i}.scale': (80, 64) for split, i in (('train', 2), ('val', 1), ('test', 1))}
    options = {**data_options(tmp_path), **scale}
    args = ['--work-dir', tmp_path]
    log = call(MIM / 'tools/train.py', config, *args, *cfg_options(**options, **{'train_cfg.max_epochs': 1}), new=True)
    assert 'Loaded 141 of 149 tensors' in log and 'coco/bbox_mAP' in log
    log = call(MIM / 'tools/train.py', config, *args, '--resume', *cfg_options(**options, **{'train_cfg.max_epochs': 2}))
    assert 'resumed epoch: 1, iter: 2' in log
    checkpoint, args = tmp_path / 'epoch_2.pth', [*args, *cfg_options(**options)]
    assert 'coco/bbox_mAP' in call(MIM / 'tools/test.py', config, checkpoint, *args)
    assert 'coco/bbox_mAP' in call(ROOT / 'tools/test.py', config, checkpoint, '--tta', *args)


@pytest.mark.slow
@pytest.mark.parametrize('tool, args', [('train.py', ()), ('test.py', ('none.pth', ))])
def test_bad_data_end_a_tool_with_one_line(tmp_path, tool, args):
    write_voc07(tmp_path, ToySpec(num_train=1, num_val=1, size=(32, 40)))
    file = tmp_path / 'VOC2007/Annotations/000002.xml'
    file.write_text(file.read_text().replace('<name>', '<name>toy '))
    options = ['--work-dir', tmp_path, *(['--from-scratch'] if tool == 'train.py' else []), *cfg_options(**data_options(tmp_path))]
    log = call(ROOT / 'tools' / tool, read(VOC).filename, *args, *options, ok=False)
    assert f"error: {file}: unknown class 'toy " in log.splitlines()[-1] and 'Traceback' not in log


@pytest.mark.slow
def test_a_machine_with_mmdetection_alone():
    script = f'''
import sys
sys.modules.update(mmseg=None, mmpretrain=None)
import slak_mm, torch
from mmengine import Config
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS
cfg = Config.fromfile({read(VOC).filename!r})
init_default_scope(cfg.default_scope)
with torch.device('meta'):
    print(type(MODELS.build(cfg.model).backbone).__name__)
'''
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True)
    assert 'SLaK' in result.stdout, result.stderr
