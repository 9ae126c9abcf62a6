"""tools/benchmark.py, shrunk; how long things take is not tested."""
import json
import sys
from pathlib import Path
from statistics import median

import pytest

from slak_mm.models import SLaK


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'tools')
    monkeypatch.setitem(SLaK.arch_settings, 'micro', dict(depths=(1, 1, 1, 1), channels=(4, 4, 8, 8)))
    import benchmark
    yield benchmark
    del sys.modules['benchmark']


def test_upkeep(benchmark, tmp_path, capsys):
    benchmark.main(['upkeep', '--arch', 'micro', '--batch', '2', '--size', '64', '--repeats', '3', '--threads', '1',
                    '--out', str(tmp_path)])
    result = json.loads((tmp_path / 'upkeep.json').read_text())
    assert result['part'] == 'upkeep' and result['machine'].keys() >= {'cores', 'torch'}
    assert result['settings'] == dict(arch='micro', batch=2, size=64, repeats=3, threads=1)
    assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in result['seconds'].values())
    assert result['medians'] == {name: median(seconds) for name, seconds in result['seconds'].items()}
    ratios = result['ratios']
    assert ratios['upkeep / train step'] == pytest.approx(ratios['masks / train step'] + ratios['adaptation / train step'])
    printed = capsys.readouterr().out
    assert f"{ratios['upkeep / train step']:.4f}" in printed and 'forward and backward' in printed


def test_cases_are_measured_in_turn(benchmark):
    calls = []
    seconds = benchmark.interleaved(dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')), 2)
    assert calls == ['a', 'b'] * 3 and {name: len(values) for name, values in seconds.items()} == dict(a=2, b=2)


def test_defaults_are_those_of_the_issue(benchmark):
    args = benchmark.parse_args(['upkeep'])
    assert (args.arch, args.batch, args.size) == ('tiny', 8, 224)
