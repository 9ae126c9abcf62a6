"""A small SLaK in stock configs of mmdet and mmsegmentation: tests/stock_configs.py, run as a whole by its own command."""
import re
from pathlib import Path

import pytest
from stock_configs import CASES, run

PAGE = Path(__file__).parents[2] / 'docs/stock_configs.md'


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow if case.slow else ()) for name, case in CASES.items()])
def test_it_is_built_gets_masks_trains_and_predicts(name):
    pytest.importorskip(name.partition(':')[0])
    run(name)


def test_the_page_lists_them_all():
    rows = re.findall(r'^\| `(mm(?:det|seg)::.*?)` \| [\d.]+ \|', PAGE.read_text(), re.MULTILINE)
    assert rows == list(CASES)
    assert all(sum(name.startswith(library) for name in rows) >= 25 for library in ('mmdet', 'mmseg'))
