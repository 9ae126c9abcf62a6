"""Sparse pre-training of SLaK-T on a GPU, through the tools: mixed precision, exact resume, torch.compile, NCCL, FSDP."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from micro_configs import shrink_model
from mmengine import Config

from slak_mm.compat import load_weights_only
from slak_mm.compat.versions import find_config
from slak_mm.sparsity.masks import unpack
from slak_mm.toy import ToySpec, write_imagenet

ROOT = Path(__file__).parents[2]
EPOCHS, BATCH = 5, 8
STEPS = 20


@pytest.fixture(scope='module')
def data(tmp_path_factory, small):
    root = tmp_path_factory.mktemp('imagenet')
    size = (64, 80) if small else (224, 256)
    write_imagenet(root, ToySpec(num_train=STEPS // EPOCHS * (2 if small else BATCH), num_val=4, size=size))
    return root


@pytest.fixture(scope='module')
def config(data, small):
    """slak_t_300e_in1k, 20 steps on toy data; on a CPU a micro SLaK."""
    cfg = Config.fromfile(find_config('slak_t_300e_in1k.py'))
    if small:
        shrink_model(cfg)
    batch, side = (2, 32) if small else (BATCH, 224)
    cfg.merge_from_dict({'randomness.seed': 0, 'train_cfg.max_epochs': EPOCHS, 'optim_wrapper.accumulative_counts': 1,
                         'train_dataloader.dataset.pipeline.1.scale': side})
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False, batch_size=batch)
        cfg[f'{split}_dataloader'].dataset.data_root = str(data)
    for split in ('val', 'test'):
        cfg.merge_from_dict({f'{split}_dataloader.dataset.pipeline.{key}': side for key in ('1.scale', '2.crop_size')})
    hook = next(hook for hook in cfg.custom_hooks if 'SparsityHook' in str(hook['type']))
    hook['interval'] = 5
    return cfg


def train(cfg, work_dir, *args, processes=0):
    """Runs the tool, by torchrun if there are ``processes``."""
    work_dir.mkdir(parents=True, exist_ok=True)
    cfg.dump(work_dir / 'config.py')
    launch = [sys.executable, '-W', 'ignore']
    if processes:
        launch += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
        args += '--launcher', 'pytorch'
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    result = subprocess.run([*launch, str(ROOT / 'tools/train.py'), str(work_dir / 'config.py'), '--work-dir', str(work_dir), *args],
                            capture_output=True, text=True, timeout=300,
                            env=os.environ | dict(CUBLAS_WORKSPACE_CONFIG=':4096:8', PYTHONPATH=path))
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout + result.stderr


def assert_sparse(path, steps):
    """After one of these numbers of steps, exactly 40% of the weights are masked, and zero.

    A few others are zero too: taps that never meet a small map, once grown.
    """
    saved = load_weights_only(path, 'cpu')
    kept = total = 0
    for name, mask in saved['sparsity']['masks'].items():
        active = torch.ones(mask['shape'], dtype=torch.bool) if mask['bits'] is None else unpack(mask['bits'][0], mask['shape'])
        weight = saved['state_dict'][name]
        assert not weight[~active].any() and (weight.dim() == 4 or weight[active].count_nonzero() > .99 * active.sum()), name
        kept, total = kept + int(active.sum()), total + active.numel()
    assert kept == round(.6 * total) and saved['sparsity']['steps'] in steps
    assert all(torch.isfinite(tensor).all() for tensor in saved['state_dict'].values() if tensor.is_floating_point())
    return saved


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_masks_are_exact(config, dtype, tmp_path, small):
    cfg = config.copy()
    if dtype != 'float32':
        if small:
            pytest.skip('AmpOptimWrapper needs a GPU')
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype, loss_scale='dynamic')
    log = train(cfg, tmp_path)
    assert 'slower native backend' not in log
    skipped = 10 if dtype == 'float16' else 0  # by the GradScaler, until it has found its scale
    assert_sparse(tmp_path / f'epoch_{EPOCHS}.pth', range(STEPS - skipped, STEPS + 1))


def test_a_resumed_run_is_the_unbroken_one(config, tmp_path):
    cfg = config.copy()
    cfg.randomness.deterministic = True
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
    train(cfg, tmp_path / 'whole')
    train(cfg, tmp_path / 'resumed', '--resume', str(tmp_path / f'whole/epoch_{EPOCHS - 2}.pth'))
    whole, resumed = (assert_sparse(tmp_path / f'{run}/epoch_{EPOCHS}.pth', [STEPS]) for run in ('whole', 'resumed'))
    for part in ('state_dict', 'ema_state_dict'):
        assert whole[part].keys() == resumed[part].keys()
        assert [name for name, tensor in whole[part].items() if not torch.equal(tensor, resumed[part][name])] == []


def test_compiled(config, tmp_path, small):
    cfg = shrink_model(config.copy())
    cfg.compile = dict(backend='eager' if small else 'inductor')
    train(cfg, tmp_path)
    assert_sparse(tmp_path / f'epoch_{EPOCHS}.pth', [STEPS])


@pytest.mark.parametrize('strategy', [None, 'DDPStrategy', 'FSDPStrategy'])
def test_one_process_of_several(config, strategy, tmp_path, small):
    """NCCL, SyncBN; by mmengine's Runner, and by the strategies of FlexibleRunner."""
    cfg = config.copy()
    if small:
        cfg.env_cfg.dist_cfg.backend = 'gloo'
        cfg.model.backbone.norm_cfg = dict(type='BN')
    if strategy:
        cfg.update(runner_type='FlexibleRunner', strategy=dict(type=strategy))
    if strategy == 'FSDPStrategy':
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if 'EMA' not in str(hook['type'])]
        cfg.strategy.model_wrapper = dict(use_orig_params=True)
        cfg.optim_wrapper.pop('paramwise_cfg', None)
    train(cfg, tmp_path, processes=1)
    assert_sparse(tmp_path / f'epoch_{EPOCHS}.pth', [STEPS])
