"""Batches as the model is given them: of one tensor, of the right channels, of two images where a norm needs them."""
import pytest
import torch
from data_helpers import lines, make

from slak_mm.checks import Split, check_config
from slak_mm.checks.batches import check_last_batch
from slak_mm.models.build import build_model


@pytest.fixture
def seg(tmp_path):
    cfg = make('seg', tmp_path, num_train=5)
    cfg.train_dataloader.update(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=True))
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=10)
    return cfg


@pytest.fixture
def cls(tmp_path):
    """32x32 images: the last map of the backbone has one pixel."""
    cfg = make('cls', tmp_path, num_train=5)
    cfg.train_dataloader.update(batch_size=4, drop_last=False)
    step = next(step for step in cfg.train_dataloader.dataset.pipeline if step['type'] == 'RandomResizedCrop')
    step.update(scale=32)
    return cfg


def test_one_image_left_for_a_norm_of_a_head(seg):
    line, = lines(seg)
    assert '5 images in batches of 2 leave one alone' in line and 'decode_head.psp_modules' in line and 'drop_last=True' in line
    seg.train_dataloader.drop_last = True
    assert lines(seg) == []


def test_one_image_left_for_a_norm_of_the_backbone(cls):
    line, = lines(cls)
    assert '5 images in batches of 4' in line and 'backbone.stages.3' in line
    cls.train_dataloader.drop_last = True
    assert lines(cls) == []


def test_one_image_that_no_norm_minds(cls):
    step = next(step for step in cls.train_dataloader.dataset.pipeline if step['type'] == 'RandomResizedCrop')
    step.update(scale=64)
    assert lines(cls) == [] and any('each norm' in line for line in lines(cls, 'fine'))


def test_batches_of_one(seg):
    seg.train_dataloader.batch_size = 1
    seg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    seg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    assert 'train_dataloader.batch_size=2' in lines(seg)[0]


@pytest.mark.parametrize('max_iters, wrong', [(2, False), (3, True)])
def test_an_end_that_the_run_does_not_reach(seg, max_iters, wrong):
    seg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
    assert bool(lines(seg)) == wrong


def test_no_batch_at_all(seg):
    seg.train_dataloader.update(batch_size=8, drop_last=True)
    assert '5 images do not make one batch of 8' in lines(seg)[0]


def test_the_model_stays_as_it_was(seg):
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner
    init_default_scope('mmseg')
    model = build_model(seg).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = list(check_last_batch(Split('train', Runner.build_dataloader(seg.train_dataloader, seed=0), model)))
    assert [finding.level for finding in found] == ['error'] and not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_images_of_several_sizes(cls):
    dataset = cls.val_dataloader.dataset
    dataset.pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(40, 40)), dict(type='RandomCrop', crop_size=32),
                        dict(type='PackInputs')]
    assert not [line for line in lines(cls) if line.startswith('val')]
    dataset.pipeline[1:3] = [dict(type='RandomResize', scale=(40, 40), ratio_range=(.5, 2.), resize_type='Resize')]
    try:
        line = next(line for line in lines(cls) if line.startswith('val'))
    except StopIteration:
        pytest.skip('this mmpretrain has no RandomResize')
    assert '3x' in line and 'one size' in line


def test_images_that_are_too_small(cls):
    """As those of MNIST."""
    steps = 'LoadImageFromFile', dict(type='Resize', scale=(28, 28)), 'PackInputs'
    cls.val_dataloader.dataset.pipeline = [step if isinstance(step, dict) else dict(type=step) for step in steps]
    line, = [line for line in lines(cls) if line.startswith('val')]
    assert 'images are 28x28' in line and 'at least 32 pixels a side' in line


@pytest.mark.parametrize('color_type, channels', [('grayscale', 3), ('color', 4)])
def test_channels(seg, color_type, channels):
    """One channel is spread by a mean of three; a backbone of four is given three."""
    seg.train_dataloader.drop_last = True
    seg.train_dataloader.dataset.pipeline[0].color_type = color_type
    seg.model.backbone.in_channels = channels
    found = [line for line in lines(seg) if line.startswith('train')]
    assert found == [] if channels == 3 else 'images have 3 channels' in found[0] and 'takes 4' in found[0]


@pytest.mark.slow
def test_a_metric_of_other_images(tmp_path):
    cfg = make('coco', tmp_path)
    cfg.val_evaluator.ann_file = str(tmp_path / 'annotations/instances_train2017.json')
    found = list(check_config(cfg))
    assert any('val_evaluator.ann_file' in finding.text for finding in found if finding.level != 'fine')
