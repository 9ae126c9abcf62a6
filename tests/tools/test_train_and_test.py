"""tools/train.py and tools/test.py as a user runs them, on toy data in ADE20K's layout."""
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm
from versions import needs_releases

from slak_mm.toy import ToySpec, write_ade20k

ROOT = Path(__file__).parents[2]
STOCK = Path(importlib.util.find_spec('mmseg').origin).parent / '.mim/tools'
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('ade20k')
    write_ade20k(root, ToySpec(num_train=4, num_val=2, size=(64, 80)))
    return root


def call(tool, *args, ok=True, python=None):
    """Runs a tool; returns what it printed."""
    result = subprocess.run([python or warm.python(), '-W', 'ignore', str(tool), *map(str, args)], capture_output=True, text=True,
                            timeout=300)
    assert (result.returncode == 0) == ok, (result.stdout + result.stderr)[-3000:]
    return result.stdout + result.stderr


def tool(name, *args, **kwargs):
    return call(ROOT / 'tools' / name, *args, **kwargs)


def data_options(data):
    return [f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val', 'test')]


def options(data, iters, batch=2, crop=64):  # UPerHead pools to 1x1 before a batch norm: one image is too few
    return ['--cfg-options', *data_options(data), f'train_cfg.max_iters={iters}', f'train_dataloader.batch_size={batch}',
            f'train_dataloader.dataset.pipeline.3.crop_size=({crop},{crop})', f'model.data_preprocessor.size=({crop},{crop})']


MICRO_CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 2, 1), channels=(8, 12, 16, 20))),
    decode_head=dict(in_channels=[10, 15, 20, 26], channels=8),
    auxiliary_head=dict(in_channels=20, channels=8),
    test_cfg=dict(crop_size=(64, 64), stride=(48, 48)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 64), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs')]
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
"""


@pytest.fixture(scope='module')
def micro(tmp_path_factory):
    """The 160k config, shrunk."""
    path = tmp_path_factory.mktemp('configs') / 'micro.py'
    path.write_text(MICRO_CONFIG.format(base=str(ROOT / 'configs/upernet_slak_t_160k_ade20k.py')))
    return path


@pytest.fixture(scope='module')
def trained(micro, data, tmp_path_factory, official_path):
    """Two iterations of a sparse fine-tuning, where mmdet and mmpretrain are not installed, in a new interpreter."""
    work_dir = tmp_path_factory.mktemp('work_dir')
    train = work_dir / 'train.py'
    train.write_text(f'''
import runpy, sys
sys.modules.update(mmdet=None, mmpretrain=None)
sys.path.insert(0, {str(ROOT / 'tools')!r})
runpy.run_path({str(ROOT / 'tools/train.py')!r}, run_name='__main__')
''')
    log = call(train, micro, '--work-dir', work_dir, '--pretrained', official_path, *options(data, 2),
               python=sys.executable)
    return work_dir, log


@pytest.fixture(scope='module')
def official_path():
    return ROOT / 'tests/data/slak_micro.pth'


def test_train(trained, official_path):
    work_dir, log = trained
    assert 'mIoU' in log and (work_dir / 'iter_2.pth').exists() and (work_dir / 'micro.py').exists()
    assert 'Loaded 141 of 149 tensors' in log and 'the masks never change' in log
    official = torch.load(official_path, weights_only=True)['model']['stages.2.1.pwconv1.weight']
    saved = torch.load(work_dir / 'iter_2.pth', weights_only=True)['state_dict']['backbone.stages.2.1.pwconv1.weight']
    assert 0 < (official == 0).sum() and ((saved == 0) == (official == 0)).all() and not torch.equal(saved, official)


def test_resume(micro, data, trained):
    work_dir, _ = trained
    log = tool('train.py', micro, '--work-dir', work_dir, '--resume', *options(data, 3))
    assert 'resumed epoch: 0, iter: 2' in log and (work_dir / 'iter_3.pth').exists()
    log = tool('train.py', micro, '--work-dir', work_dir, '--resume', work_dir / 'iter_2.pth', *options(data, 3))
    assert 'resumed epoch: 0, iter: 2' in log


def test_test(micro, data, trained, tmp_path):
    work_dir, _ = trained
    args = ['--work-dir', tmp_path, '--cfg-options', *data_options(data)]
    plain = tool('test.py', micro, work_dir / 'iter_2.pth', '--out', tmp_path / 'out.pkl', '--show-dir', tmp_path / 'shown', *args)
    assert 'mIoU' in plain and len(list((tmp_path / 'shown').rglob('*.png'))) == 2
    assert len(pickle.loads((tmp_path / 'out.pkl').read_bytes())) == 2
    deployed = tool('test.py', micro, work_dir / 'iter_2.pth', '--deploy', *args)
    assert deployed[deployed.index('aAcc'):].split('data_time')[0] == plain[plain.index('aAcc'):].split('data_time')[0]
    assert 'mIoU' in tool('test.py', micro, work_dir / 'iter_2.pth', '--tta', *args)


@needs_releases
def test_stock_tools_of_mmsegmentation(micro, data, tmp_path):
    """A user's config that names type='slak_mm.SLaK' and no custom_imports."""
    config = tmp_path / 'mine.py'
    config.write_text(f"""
_base_ = ['mmseg::_base_/models/upernet_swin.py', 'mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py',
          'mmseg::_base_/schedules/schedule_20k.py']
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(_delete_=True, type='slak_mm.SLaK', arch=dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20)),
                  out_indices=(0, 1, 2, 3), gap_before_final_norm=False,
                  init_cfg=dict(type='Pretrained', checkpoint='{ROOT}/tests/data/slak_micro.pth')),
    decode_head=dict(in_channels=[10, 15, 20, 26], channels=8, num_classes=150),
    auxiliary_head=dict(in_channels=20, channels=8, num_classes=150))
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
""")
    log = call(STOCK / 'train.py', config, '--work-dir', tmp_path, *options(data, 2))
    assert 'Loaded 141 of 149 tensors' in log and 'mIoU' in log
    log = call(STOCK / 'train.py', config, '--work-dir', tmp_path, '--resume', *options(data, 3))
    assert 'resumed epoch: 0, iter: 2' in log
    assert 'mIoU' in call(STOCK / 'test.py', config, tmp_path / 'iter_2.pth', '--cfg-options', *data_options(data))


def test_without_pretrained_weights_it_wants_to_be_told(micro, data, tmp_path):
    log = tool('train.py', micro, '--work-dir', tmp_path, *options(data, 1), ok=False)
    assert log.splitlines()[-1].startswith('error: checkpoints/slak_t_300e_in1k.pth is not there') and '--from-scratch' in log
    log = tool('train.py', micro, '--work-dir', tmp_path, '--from-scratch', *options(data, 1))
    assert 'THE BACKBONE STARTS FROM RANDOM WEIGHTS' in log and 'IT TRAINS DENSE' in log


@pytest.mark.parametrize('flag, file, message', [
    ('--pretrained', 'matches_nothing', 'holds no SLaK'),
    ('--pretrained', 'other_kernels', 'kernel_sizes=(31, 29, 27, 13),  # instead of (51, 49, 47, 13)'),
    ('--pretrained', 'truncated', 'it is cut short'),
    ('--pretrained', 'hostile', 'is refused'),
    ('--resume', 'hostile', 'is refused'),
])
def test_a_bad_file_ends_with_one_clear_line(micro, data, tmp_path, official_path, flag, file, message):
    from slak_mm.models import SLaK
    path, ran = tmp_path / f'{file}.pth', tmp_path / 'ran'
    if file == 'truncated':
        path.write_bytes(official_path.read_bytes()[:300_000])
    elif file == 'hostile':
        torch.save(dict(model={}, args=Hostile(ran)), path)
    elif file == 'other_kernels':
        model = SLaK(arch=dict(depths=(1, 1, 2, 1), channels=(8, 12, 16, 20)), kernel_sizes=(31, 29, 27, 13))
        torch.save(dict(model=model.state_dict()), path)
    else:
        torch.save({'conv1.weight': torch.zeros(1)}, path)
    log = tool('train.py', micro, '--work-dir', tmp_path, flag, path, *options(data, 1), ok=False)
    assert message in log.splitlines()[-1] or message in log.split('error: ')[-1]
    assert 'Traceback' not in log and not ran.exists()


class Hostile:

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f'touch {self.target}', )


def test_testing_a_backbone_alone_is_refused(micro, data, tmp_path, official_path):
    log = tool('test.py', micro, official_path, '--work-dir', tmp_path, '--cfg-options', *data_options(data), ok=False)
    assert 'The checkpoint lacks' in log and 'Nothing was loaded' in log


def test_convert_checkpoint(official_path, tmp_path):
    target = tmp_path / 'converted.pth'
    log = tool('convert_checkpoint.py', official_path, target, '--key', 'model_ema')
    assert 'kernel_sizes=(51, 49, 47, 13), small_kernel_size=5' in log and '% of the backbone' in log
    converted = torch.load(target, weights_only=True)['state_dict']
    ema = torch.load(official_path, weights_only=True)['model_ema']
    assert torch.equal(converted['backbone.norm3.weight'], ema['norm.weight'])
    assert torch.equal(converted['head.fc.weight'], ema['head.weight'])
    assert torch.equal(converted['backbone.stages.0.0.large_kernel.wide.conv.weight'],
                       ema['stages.0.0.large_kernel.LoRA2.conv.weight'])
    tool('convert_checkpoint.py', target, tmp_path / 'twice.pth')
    assert torch.load(tmp_path / 'twice.pth', weights_only=True)['state_dict'].keys() == converted.keys()


@pytest.mark.parametrize('name, full', [('t_160k', True), ('s_160k', False), ('b_160k', True), ('t_80k', False)])
def test_each_config(name, full, work_dir):
    """T and B in full size; S and the other schedule of T with a micro backbone."""
    data = work_dir / 'data'
    write_ade20k(data, ToySpec(num_train=2, num_val=1, size=(64, 80)))
    config = ROOT / f'configs/upernet_slak_{name}_ade20k.py'
    if not full:
        text, config = MICRO_CONFIG.format(base=str(config)), work_dir / 'micro.py'
        config.write_text(text)
    small = [f'{split}_dataloader.dataset.pipeline.1.scale=(80,64)' for split in ('val', 'test')]
    if name == 'b_160k':  # a checkpoint of 0.9 GB, not of 2.6
        small.append('default_hooks.checkpoint.save_optimizer=False')
    if name == 's_160k':  # which says how many layers decay
        small.append('optim_wrapper.paramwise_cfg.num_layers=6')
    log = tool('train.py', config, '--work-dir', work_dir, '--from-scratch', *options(data, 1), *small)
    assert 'mIoU' in log and (work_dir / 'iter_1.pth').exists()
    if name == 't_160k':
        log = tool('train.py', config, '--work-dir', work_dir, '--resume', *options(data, 2), *small)
        assert 'resumed epoch: 0, iter: 1' in log and (work_dir / 'iter_2.pth').exists()
        assert 'mIoU' in tool('test.py', config, work_dir / 'iter_2.pth', '--work-dir', work_dir, '--cfg-options', *data_options(data),
                              *small)
