"""ImageNet-1K pre-training as a user runs it, on toy data: train, resume, test, recalibrate; each config shrunk, one in full."""
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from micro_configs import shrink_model
from mmengine import Config
from mmengine.runner import Runner
from torch import nn

from slak_mm.compat.versions import find_config
from slak_mm.sparsity.masks import unpack
from slak_mm.toy import ToySpec, write_imagenet
from slak_mm.training.recalibrate import TrainingLoss

ROOT = Path(__file__).parents[2]
PRETRAINING = sorted(path.stem for folder in ('configs', 'configs/ablations') for path in ROOT.glob(f'{folder}/*0e_in1k.py'))


def tool(name, *args):
    """Runs a tool; returns what it printed."""
    result = warm.run(ROOT / 'tools' / name, *args)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('imagenet')
    write_imagenet(root, ToySpec(num_train=8, num_val=4, size=(64, 80)))
    return root


def settings(data, epochs=1):
    """Small images; in an epoch, two optimizer steps of 2 accumulated batches of 2.

    The seed, because of torch's initial weights one in 2**24 is zero, and stays so where the kernel never meets the small map.
    """
    changed = {'randomness.seed': 0, 'optim_wrapper.accumulative_counts': 2, 'train_cfg.max_epochs': epochs,
               'train_dataloader.dataset.pipeline.1.scale': 64}
    for split in ('train', 'val', 'test'):
        changed |= {f'{split}_dataloader.{key}': value for key, value in
                    {'dataset.data_root': str(data), 'num_workers': 0, 'batch_size': 2}.items()}
    for split in ('val', 'test'):
        changed |= {f'{split}_dataloader.dataset.pipeline.{key}': 64 for key in ('1.scale', '2.crop_size')}
    return changed


def options(data, epochs=1):
    return ['--cfg-options', *(f'{key}={value}' for key, value in settings(data, epochs).items())]


def read_micro(name):
    """The config with a backbone of the size of tests/data/slak_micro.pth."""
    return shrink_model(Config.fromfile(find_config(f'{name}.py')))


@pytest.fixture(scope='module')
def micro(tmp_path_factory):
    path = tmp_path_factory.mktemp('configs') / 'micro.py'
    read_micro('slak_t_300e_in1k').dump(path)
    return path


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """A sparse file of the authors for 1000 classes."""
    weights = torch.load(ROOT / 'tests/data/slak_micro.pth', weights_only=True)['model']
    path = tmp_path_factory.mktemp('official') / 'official.pth'
    torch.save(dict(model=weights | {'head.weight': torch.randn(1000, 26), 'head.bias': torch.zeros(1000)}), path)
    return path


def assert_sparse(path, sparsity=.4):
    """The weights, their average and the masks have exactly the same non-zeros, as many as the sparsity asks for."""
    saved = torch.load(path, weights_only=True)
    kept = total = differing = 0
    for name, mask in saved['sparsity']['masks'].items():
        active = torch.ones(mask['shape'], dtype=torch.bool) if mask['bits'] is None else unpack(mask['bits'][0], mask['shape'])
        average, weights = saved['state_dict'][name], saved['ema_state_dict'][f'module.{name}']
        assert torch.equal(weights != 0, active) and torch.equal(average != 0, active), name
        kept, total, differing = kept + int(active.sum()), total + active.numel(), differing + int((weights != average).sum())
    assert kept == round((1 - sparsity) * total) and differing
    return saved


def assert_dense(path):
    """No masks; the average is another than the weights."""
    saved = torch.load(path, weights_only=True)
    average, weights = saved['state_dict'], saved['ema_state_dict']
    assert 'sparsity' not in saved and average.keys() == {name[7:] for name in weights if name != 'steps'}
    assert any(not torch.equal(average[name], weights[f'module.{name}']) for name in average if name.endswith('weight'))


@pytest.fixture(scope='module')
def trained(micro, data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('work_dir')
    return work_dir, tool('train.py', micro, '--work-dir', work_dir, *options(data))


@pytest.mark.slow
def test_train(trained):
    work_dir, log = trained
    assert '(60.00%)' in log and 'adapted every 100 of 2 steps' in log and 'accuracy/top1:' in log and 'accuracy/top1_origin:' in log
    assert Config.fromfile(work_dir / 'micro.py').train_dataloader.collate_fn.type == 'default_collate'  # as mmpretrain's own tool
    saved = assert_sparse(work_dir / 'epoch_1.pth')
    assert saved['sparsity']['steps'] == 2 and saved['ema_state_dict']['steps'] == 3  # it starts from the initial weights


@pytest.mark.slow
def test_resume_and_test(micro, data, trained, tmp_path):
    work_dir, _ = trained
    log = tool('train.py', micro, '--work-dir', work_dir, '--resume', *options(data, epochs=2))
    assert 'resumed epoch: 1, iter: 4' in log
    assert assert_sparse(work_dir / 'epoch_2.pth')['sparsity']['steps'] == 4
    scores = []
    for flags in ([], ['--deploy', '--tta']):
        out = tmp_path / 'out.pkl'
        log = tool('test.py', micro, work_dir / 'epoch_2.pth', '--out', out, *flags, '--work-dir', tmp_path, *options(data))
        assert 'accuracy/top1:' in log and 'top1_origin' not in log
        scores.append(np.stack([result['pred_score'] for result in pickle.loads(out.read_bytes())]))
    assert np.corrcoef(*map(np.ravel, scores))[0, 1] > .9  # not more, since the second are averaged over flipped images


def test_all_but_dropout_train_while_batch_norms_are_recalibrated():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2), nn.Sequential(nn.Dropout(), nn.SyncBatchNorm(2), nn.LayerNorm(2)))
    wrapped = TrainingLoss(model).train()
    assert [type(module).__name__ for module in wrapped.modules() if not module.training] == ['Dropout', 'Dropout']
    assert not any(module.training for module in wrapped.eval().modules())


@pytest.mark.slow
def test_recalibrate_bn(micro, data, trained, tmp_path):
    cfg = Config.fromfile(micro)
    cfg.merge_from_dict(settings(data))
    cfg.train_dataloader.dataset.pipeline = cfg.val_dataloader.dataset.pipeline  # without randomness
    cfg.train_dataloader.sampler.shuffle = False
    cfg.dump(tmp_path / 'plain.py')
    source, out = trained[0] / 'epoch_1.pth', tmp_path / 'out.pth'
    log = tool('recalibrate_bn.py', tmp_path / 'plain.py', source, out, '--num-iters', 3)
    assert '3 batches of 2 images' in log and '100%' in log
    before, after = (torch.load(path, weights_only=True)['state_dict'] for path in (source, out))
    changed = {name.rpartition('.')[2] for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed == {'running_mean', 'running_var', 'num_batches_tracked'}

    # the first batch norms come after no other: their statistics are those of a convolution's output
    cfg.update(work_dir=str(tmp_path), custom_hooks=[], load_from=f'slak_mm://{out}')
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    stem, branches = runner.model.backbone.downsample_layers[0], runner.model.backbone.stages[0][0].large_kernel
    loader = islice(runner.build_dataloader(cfg.train_dataloader), 3)
    batches = [runner.model.data_preprocessor(batch)['inputs'] for batch in loader]
    for branch in (branches.tall, branches.wide, branches.small):
        with torch.no_grad():
            outputs = [branch.conv(stem(batch)).double() for batch in batches]
        for statistic, method in ((branch.bn.running_mean, torch.Tensor.mean), (branch.bn.running_var, torch.Tensor.var)):
            expected = torch.stack([method(output, (0, 2, 3)) for output in outputs]).mean(0)
            torch.testing.assert_close(statistic.double(), expected, rtol=1e-4, atol=1e-6)
        assert branch.bn.num_batches_tracked == 3
    assert 'accuracy/top1' in tool('test.py', micro, out, '--work-dir', tmp_path, *options(data))


@pytest.mark.slow
@pytest.mark.parametrize('name', PRETRAINING)
def test_each_config_shrunk(name, data, tmp_path):
    cfg = read_micro(name)
    cfg.merge_from_dict(settings(data))
    cfg.update(work_dir=str(tmp_path), experiment_name=name)
    Runner.from_cfg(cfg).train()
    hook = cfg.custom_hooks[0]
    assert_sparse(tmp_path / 'epoch_1.pth', hook.sparsity) if 'sparsity' in hook else assert_dense(tmp_path / 'epoch_1.pth')


@pytest.mark.slow
def test_fine_tuning_at_384_keeps_the_zeros_of_an_official_file(data, official, tmp_path):
    cfg = read_micro('slak_b_384_in1k')
    cfg.merge_from_dict({key: value for key, value in settings(data).items() if 'crop_size' not in key})
    cfg.optim_wrapper.paramwise_cfg.num_layers = 6
    cfg.dump(tmp_path / 'micro.py')
    log = tool('train.py', tmp_path / 'micro.py', '--work-dir', tmp_path, '--cfg-options', f'load_from={official}')
    assert 'the masks never change' in log and 'accuracy/top1' in log
    theirs = torch.load(official, weights_only=True)['model']['stages.2.1.pwconv1.weight']
    ours = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['state_dict']['backbone.stages.2.1.pwconv1.weight']
    assert torch.equal(ours == 0, theirs == 0) and (theirs == 0).any() and not torch.equal(ours, theirs)


@pytest.mark.slow
def test_an_official_file_is_tested(micro, data, official, tmp_path):
    assert 'accuracy/top1:' in tool('test.py', micro, official, '--deploy', '--work-dir', tmp_path, *options(data))


@pytest.mark.slow
def test_the_full_config(data, work_dir):
    config = ROOT / 'configs/slak_t_300e_in1k.py'
    log = tool('train.py', config, '--work-dir', work_dir, *options(data))
    assert '30,345,914 of 50,576,524 maskable weights are active (60.00%)' in log
    assert_sparse(work_dir / 'epoch_1.pth')
    log = tool('train.py', config, '--work-dir', work_dir, '--resume', *options(data, epochs=2))
    assert 'resumed epoch: 1, iter: 4' in log
    assert_sparse(work_dir / 'epoch_2.pth')
    log = tool('test.py', config, work_dir / 'epoch_2.pth', '--work-dir', work_dir, *options(data))
    assert 'accuracy/top1' in log
