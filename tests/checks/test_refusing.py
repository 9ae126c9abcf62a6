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
