"""What a SLaK gives, and what neck and heads take: where the two do not fit, what to set is said before the run."""
import pytest
import torch
from data_helpers import lines, make, read
from mmengine.config import ConfigDict
from torch import nn

from slak_mm.checks import Split, check_all, enforce
from slak_mm.errors import InputError
from slak_mm.models.build import build_model, quiet
from slak_mm.models.readers import misfits, require_fit
from slak_mm.registry import enter_scope

SEG, DET, CLS, SET, HAM, DINO, RTMDET = (
    'upernet_slak_micro_toy_ade20k', 'toy/faster_rcnn_slak_micro_toy_voc07', 'slak_micro_toy_in1k',
    'toy/mask2former_slak_micro_toy_ade20k', 'toy/ham_slak_micro_toy_ade20k', 'toy/dino_slak_micro_toy_coco',
    'toy/rtmdet_slak_micro_toy_coco')
RESNET, LAST = [256, 512, 1024, 2048], dict(out_indices=-1)
POOLED = dict(gap_before_final_norm=True)
GAP = dict(neck=dict(type='GlobalAveragePooling'))


def changed(name, changes):
    cfg = read(name).copy()
    cfg.merge_from_dict(dict(model=ConfigDict(changes)))
    enter_scope(cfg)
    with quiet():
        return build_model(cfg)


def remedies(name, changes):
    """Of each part that does not fit, without the full stop."""
    found = [text.rstrip('.') for text in misfits(changed(name, changes))]
    return {text.split()[0]: text[text.index('. Set ') + 2:] for text in found}


@pytest.fixture(scope='module')
def widths():
    return list(changed(SEG, {}).backbone.channels)


@pytest.mark.parametrize('name', [SEG, DET, CLS, SET, HAM, DINO, RTMDET])
def test_ours_fit(name):
    assert remedies(name, {}) == {}


@pytest.mark.parametrize('name, changes, part, remedy', [
    (SEG, dict(decode_head=dict(in_channels=RESNET)), 'decode_head', 'Set in_channels={0} in the decode_head'),
    (SEG, dict(auxiliary_head=dict(in_channels=1024)), 'auxiliary_head', 'Set in_channels={0[2]} in the auxiliary_head'),
    (SEG, dict(backbone=LAST), 'decode_head', 'Set out_indices=(0, 1, 2, 3) in the backbone'),
    (SEG, dict(backbone=POOLED), 'decode_head', 'Set gap_before_final_norm=False in the backbone'),
    (SEG, dict(backbone=dict(POOLED, **LAST), decode_head=dict(in_channels=RESNET)), 'decode_head',
     'Set gap_before_final_norm=False and out_indices=(0, 1, 2, 3) in the backbone, set in_channels={0} in the decode_head'),
    (SEG, dict(decode_head=dict(type='FCNHead', _delete_=True, in_channels=RESNET, in_index=(0, 1, 2, 3), channels=8, num_classes=13,
                                input_transform='resize_concat')), 'decode_head', 'Set in_channels={0} in the decode_head'),
    (SET, dict(decode_head=dict(in_channels=RESNET)), 'decode_head.pixel_decoder',
     'Set in_channels of the decode_head, and out_indices of the backbone'),
    (HAM, dict(decode_head=dict(in_channels=RESNET[1:])), 'decode_head', 'Set in_channels={0} in the decode_head'),
    (DET, dict(neck=dict(in_channels=RESNET)), 'neck', 'Set in_channels={0} in the neck'),
    (DET, dict(backbone=dict(POOLED, **LAST)), 'neck', 'Set gap_before_final_norm=False and out_indices=(0, 1, 2, 3) in the backbone'),
    (DET, dict(backbone=dict(out_indices=(1, 2, 3))), 'neck', 'Set out_indices=(0, 1, 2, 3) in the backbone'),
    (DET, dict(neck=dict(out_channels=32)), 'rpn_head', 'Set in_channels=32 in the rpn_head'),
    (DINO, dict(neck=dict(in_channels=RESNET[2:])), 'neck', 'Set in_channels of the neck, and out_indices of the backbone'),
    (RTMDET, dict(backbone=dict(out_indices=(0, 1, 2, 3))), 'neck', 'Set out_indices=(1, 2, 3) in the backbone'),
    (CLS, dict(head=dict(in_channels=2048)), 'head', 'Set in_channels={0[3]} in the head'),
    (CLS, dict(backbone=dict(gap_before_final_norm=False)), 'head', 'Set gap_before_final_norm=True in the backbone'),
    (CLS, GAP, 'neck', 'Set gap_before_final_norm=False in the backbone, or leave out the neck'),
    (CLS, dict(GAP, backbone=dict(gap_before_final_norm=False), head=dict(in_channels=2048)), 'head',
     'Set in_channels={0[3]} in the head'),
])
def test_what_does_not_fit(name, changes, part, remedy):
    channels = list(changed(name, {}).backbone.channels)
    own = channels[1:] if name == HAM else channels
    found = remedies(name, changes)
    assert found[f'model.{part}'].startswith(remedy.format(own)), found
    # the other parts that it names have the same fault
    assert all('backbone' in other for key, other in found.items() if key != f'model.{part}')


def test_what_it_says_is_enough(widths):
    """Followed to the letter it leads to a model that fits."""
    wrong = dict(backbone=dict(POOLED, **LAST), decode_head=dict(in_channels=RESNET), auxiliary_head=dict(in_channels=1024))
    assert set(remedies(SEG, wrong)) == {'model.decode_head', 'model.auxiliary_head'}
    right = dict(backbone=dict(gap_before_final_norm=False, out_indices=(0, 1, 2, 3)), decode_head=dict(in_channels=widths),
                 auxiliary_head=dict(in_channels=widths[2]))
    assert remedies(SEG, right) == {}


class LastFirst(nn.Module):
    """As YOLOv3's neck."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.in_channels = in_channels
        self.convs = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in in_channels)

    def forward(self, maps):
        return tuple(conv(one) for conv, one in zip(self.convs, reversed(maps)))


def test_a_neck_that_has_the_last_map_first(widths):
    model = changed(DET, {})
    model.neck = LastFirst(widths[::-1], model.rpn_head.in_channels)
    assert not list(misfits(model))
    model.neck = LastFirst(RESNET[::-1], model.rpn_head.in_channels)
    text, = misfits(model)
    assert text.endswith(f'Set in_channels={widths[::-1]} in the neck.')


def test_what_wants_large_maps_or_more_than_maps_is_left_alone(widths):
    model = changed(DET, {})
    model.neck = nn.Sequential(model.neck)
    model.neck[0].fpn_convs[3].conv = nn.Conv2d(model.rpn_head.in_channels, model.rpn_head.in_channels, 5)
    assert not list(misfits(model))
    model.neck[0].forward = lambda maps, samples: maps
    assert not list(misfits(model))


def test_the_model_stays_as_it_was():
    model = changed(SEG, dict(backbone=LAST)).train()
    model.decode_head.dropout.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    assert list(misfits(model))
    assert modes == [module.training for module in model.modules()] and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_a_run_is_told_before_it_begins(tmp_path):
    cfg = make('seg', tmp_path)
    cfg.model.decode_head.in_channels = RESNET
    line, = lines(cfg)
    assert line.startswith('model.decode_head (UPerHead) takes [256, 512, 1024, 2048] channels (in_index=[0, 1, 2, 3]); model.back')
    with pytest.raises(InputError, match='in the decode_head'):
        enforce(check_all([Split('train', None, build_model(cfg))]))
    with pytest.raises(InputError, match='in the decode_head'):
        require_fit(build_model(cfg))
