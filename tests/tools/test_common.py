"""What the tools share."""
import argparse
import sys
from pathlib import Path

import pytest


@pytest.fixture
def parse(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'tools')
    import common
    parser = argparse.ArgumentParser()
    common.add_cfg_options(parser)
    yield lambda *options: parser.parse_args(['--cfg-options', *options]).cfg_options
    sys.modules.pop('common')


@pytest.mark.parametrize('text, value', [
    ("[dict(type='slak_mm.SparsityHook', sparsity=.4)]", [dict(type='slak_mm.SparsityHook', sparsity=.4)]),
    ("dict(a=(1, 2), b=dict(c=None, d=[dict()]))", dict(a=(1, 2), b=dict(c=None, d=[{}]))),
    ("{'a': -1}", dict(a=-1)),
    ('[(1,2),(3,4)]', [(1, 2), (3, 4)]),  # as before
    ('a,b', ['a', 'b']),
    ('2', 2),
])
def test_values_of_cfg_options(parse, text, value):
    assert parse(f'x.y={text}', 'z=1') == {'x.y': value, 'z': 1}


@pytest.mark.parametrize('text', ['[dict(', 'dict(a=open(1))', 'dict(**a)', 'dict(1)', '{a}', "__import__('os').system('dict()')"])
def test_what_is_no_value_is_refused(parse, text, capsys):
    with pytest.raises(SystemExit):
        parse(f'x={text}')
    assert 'is not KEY=VALUE' in capsys.readouterr().err
