"""Exceptions about what a user described become one line."""
import pytest
from mmengine.registry import MODELS, DefaultScope

from slak_mm.checks import refusing
from slak_mm.errors import InputError


def test_an_assertion_without_a_message_is_shown_itself():
    with pytest.raises(InputError, match=r'my.py: AssertionError: assert isinstance\(in_channels, list\) \(fpn.py, line \d+\)'):
        with refusing('my.py'), DefaultScope.overwrite_default_scope('mmdet'):
            MODELS.build(dict(type='mmdet.FPN', in_channels=(8, 16), out_channels=8, num_outs=2))


def test_one_with_a_message_says_that():
    with pytest.raises(InputError, match='my.py: ValueError: no such thing. Fix it there'):
        with refusing('my.py'):
            raise ValueError('no\n such thing.')


@pytest.mark.parametrize('settings, remedy', [
    (dict(kernel_size=7), "'kernel_size'. Write 'kernel_sizes' if it is meant."),
    # a dict that was merged with that of a ResNet
    (dict(depth=50, num_stages=4, frozen_stages=1, style='pytorch'),
     'SLaK has no depth, num_stages, style. If they come from a base config, for another type, start your dict with _delete_=True.'),
    (dict(pretrained='open-mmlab://resnet50_v1c'), 'Set model.pretrained=None; --pretrained of tools/train.py'),
])
@pytest.mark.parametrize('inside', [False, True])
def test_arguments_that_a_type_does_not_have(settings, remedy, inside):
    backbone = dict(type='slak_mm.SLaK', **settings)
    with pytest.raises(InputError) as refused, refusing('my.py'), DefaultScope.overwrite_default_scope('mmseg'):
        MODELS.build(dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=None) if inside else backbone)
    assert str(refused.value).startswith('my.py: TypeError: ') and remedy in str(refused.value)


def test_a_call_that_fails_inside_a_type_keeps_its_message():
    class Calls:
        def __init__(self, size):
            int(size, unknown=1)

    with pytest.raises(InputError, match='Fix it there or with --cfg-options'), refusing('my.py'):
        MODELS.build(dict(type=Calls, size='1'))
