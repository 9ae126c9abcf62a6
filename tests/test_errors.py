"""Exceptions of others in one line."""
import pytest

from slak_mm.errors import in_one_line


def refuse():
    raise ValueError


@pytest.mark.parametrize('fails, text', [
    (lambda: {}['key'], 'KeyError: key'),
    (lambda: float('1\n  2'), r"ValueError: could not convert string to float: '1\n 2'"),
    (refuse, 'ValueError: raise ValueError (test_errors.py, line 8)'),
])
def test_an_exception_in_one_line(fails, text):
    with pytest.raises(Exception) as raised:  # noqa: PT011
        fails()
    assert in_one_line(raised.value) == text


def test_it_is_cut_and_has_no_full_stop():
    assert in_one_line(RuntimeError(f'{"a" * 10}.\n b.'), 11) == f'RuntimeError: {"a" * 10}'
    assert in_one_line(RuntimeError()) == 'RuntimeError: '
