"""The hook in a real Runner; the algorithm itself is tested in tests/sparsity."""
import pytest
import torch
from runner_helpers import Model, build, hook, run
from torch import nn
from versions import needs_torch

from slak_mm.compat import load_weights_only
from slak_mm.training.loss import preprocess


def sparsify(model):
    for layer in (model.fc1, model.fc2):
        layer.weight.data.view(-1)[::3] = 0
    return model


def zeros(model):
    return {name: (p == 0) for name, p in model.named_parameters() if p.ndim == 2}


def test_static_masks_keep_every_zero_of_the_checkpoint(tmp_path):
    model = sparsify(Model())
    before = zeros(model)
    runner = run(tmp_path, model, [dict(init='checkpoint', grow=None)], iters=20)
    saved = load_weights_only(tmp_path / 'iter_20.pth', 'cpu')
    for name, zero in before.items():
        assert (zeros(runner.model)[name] == zero).all() and ((saved['state_dict'][name] == 0) == zero).all()
        moments = runner.optim_wrapper.optimizer.state[dict(runner.model.named_parameters())[name]]
        assert (moments['exp_avg'][zero] == 0).all() and (moments['exp_avg_sq'][zero] == 0).all()
    assert not torch.equal(runner.model.fc1.weight, sparsify(Model()).fc1.weight)


def test_a_dense_checkpoint_is_not_silently_dense(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('slak_mm.training.sparsity_hook.print_log', lambda line, *_: lines.append(line))
    run(tmp_path, hooks=[dict(init='checkpoint', grow=None)])
    assert 'TRAINS DENSE' in lines[0] and '--pretrained' in lines[0]


@pytest.mark.parametrize('init', ['snip', 'erk', 'uniform'])
def test_counts_are_exact(tmp_path, init):
    runner = run(tmp_path, hooks=[dict(init=init, interval=2, sparsity=.4)])
    masks = hook(runner).sparsity.masks
    assert masks.nonzero == round(.6 * (8 * 16 + 16 * 2))
    for name, mask in masks.active.items():
        assert (masks.params[name][~mask] == 0).all()


def test_snip_leaves_data_order_rng_and_buffers(tmp_path):
    orders, states, norms = [], [], []
    for i, init in enumerate(('uniform', 'snip')):
        runner = build(tmp_path / str(i), hooks=[dict(init=init, grow=None, sparsity=.4)], iters=1)
        runner.model.order = []
        runner.train()
        orders.append(runner.model.order[-1])
        states.append(torch.get_rng_state())
        norms.append(runner.model.bn.num_batches_tracked.item())
    assert orders[0] == orders[1] and torch.equal(*states) and norms == [1, 1]


def test_snip_does_not_lose_what_dropout_drops(tmp_path):
    model = Model()
    model.bn = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(1.))  # all of it, as drop path may in a small batch
    runner = build(tmp_path, model, [dict(init='snip')], iters=1)
    model.register_forward_pre_hook(lambda *_: seen.append([model.bn[0].training, model.bn[1].training]))
    seen = []
    runner.train()
    assert seen == [[True, False], [True, True]]  # for SNIP, then in training
    assert all(hook(runner).sparsity.masks.counts().values())


def test_steps_are_counted_under_accumulation(tmp_path):
    sparsity = hook(run(tmp_path, hooks=[dict(init='uniform', interval=1)], iters=8, accumulate=3)).sparsity
    assert sparsity.steps == 3 and sparsity.schedule.total_steps == 3


def assert_same(a, b, where=''):
    """Everything in two checkpoints is equal bit for bit, but for the logs."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {'meta', 'message_hub'}:
            assert_same(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b)):
            assert_same(*pair, f'{where}.{i}')
    else:
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b, where


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('grow', ['random', 'gradient', 'momentum', None])
def test_broken_at_any_step_and_resumed_equals_unbroken(tmp_path, grow, accumulate):
    # in fixed order and without noise: mmengine does not save the RNG
    options = dict(hooks=[dict(init='erk', interval=2, grow=grow)], shuffle=False, iters=8 * accumulate, save=accumulate,
                   ema=dict(ema_type='slak_mm.SparseExponentialMovingAverage', momentum=.1, update_buffers=True),
                   accumulate=accumulate)
    run(tmp_path / 'whole', Model(0), **options)
    files = [f'iter_{accumulate * step}.pth' for step in range(1, 9)]
    whole = load_weights_only(tmp_path / 'whole' / files[-1], 'cpu')
    assert whole['sparsity']['steps'] == 8 and not torch.equal(whole['state_dict']['fc1.weight'],
                                                               whole['ema_state_dict']['module.fc1.weight'])
    for file in files[:-1]:
        run(tmp_path / file, Model(0), **options, resume=str(tmp_path / 'whole' / file))
        assert_same(load_weights_only(tmp_path / file / files[-1], 'cpu'), whole, file)


@needs_torch('2.4')
@pytest.mark.parametrize('fused', [False, True])  # a fused optimizer is called, and skips by itself
def test_a_step_that_grad_scaler_skips_changes_nothing(tmp_path, fused):
    runner = build(tmp_path, hooks=[dict(init='uniform', interval=1)], iters=6, save=1,
                   ema=dict(ema_type='slak_mm.SparseExponentialMovingAverage'),
                   optim_wrapper=dict(type='ScalerWrapper', overflows=(2, 5)), optimizer=dict(type='AdamW', lr=1e-2, fused=fused))
    runner.train()
    saved = [load_weights_only(tmp_path / f'iter_{i + 1}.pth', 'cpu') for i in range(6)]
    assert [checkpoint['sparsity']['steps'] for checkpoint in saved] == [1, 2, 2, 3, 4, 4]
    for i in (2, 5):
        assert_same(saved[i]['sparsity'], saved[i - 1]['sparsity'])
        for weights, name in (('state_dict', 'fc1.weight'), ('ema_state_dict', 'module.fc1.weight')):
            stepped, before, after = (saved[j][weights][name] for j in (i - 2, i - 1, i))
            assert torch.equal(before, after) and not torch.equal(stepped, before)


def test_resume_without_masks_is_refused(tmp_path):
    run(tmp_path / 'dense', hooks=[])
    with pytest.raises(ValueError, match='holds no masks'):
        run(tmp_path / 'sparse', resume=str(tmp_path / 'dense/iter_8.pth'))


def test_preprocess_pads_and_does_not_mix():
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmpretrain.models import ClsDataPreprocessor
    from mmpretrain.structures import DataSample
    from mmseg.models import SegDataPreProcessor
    from mmseg.structures import SegDataSample
    images = [torch.ones(3, 8, 6, dtype=torch.uint8), torch.ones(3, 5, 8, dtype=torch.uint8)]
    model = nn.Module()
    model.data_preprocessor = SegDataPreProcessor(size=(8, 8))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, *image.shape[1:]))) for image in images]
    assert preprocess(model, dict(inputs=images, data_samples=samples))['inputs'].shape == (2, 3, 8, 8)
    model.data_preprocessor = ClsDataPreprocessor(num_classes=2, batch_augments=dict(augments=dict(type='Mixup', alpha=.8)))
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    mixup, inputs = model.data_preprocessor.batch_augments, torch.arange(24.).view(2, 3, 2, 2)
    assert torch.equal(preprocess(model, dict(inputs=inputs, data_samples=samples))['inputs'], inputs)
    assert model.data_preprocessor.batch_augments is mixup
