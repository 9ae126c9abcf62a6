"""A small SLaK in stock configs of mmdet and mmsegmentation: most of those of tests/stock_configs.py, whose own command runs all."""
import re
from pathlib import Path

import pytest
from stock_configs import CASES, run

PAGE = Path(__file__).parents[2] / 'docs/stock_configs.md'
FAST = 'rtmdet_tiny', 'deformable-detr_r50', '/fcn_r50', 'segformer'  # in make test-fast too
NAMES = [pytest.param(name, marks=() if any(part in name for part in FAST) else pytest.mark.slow)
         for name, case in CASES.items() if not case.extra]


@pytest.mark.parametrize('name', NAMES)
def test_it_is_built_gets_masks_trains_and_predicts(name):
    pytest.importorskip(name.partition(':')[0])
    run(name)


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_the_page_lists_them_all(library):
    rows = re.findall(rf'^\| `({library}::.*?)` \| [\d.]+ \|', PAGE.read_text(), re.MULTILINE)
    assert rows == [name for name in CASES if name.startswith(library)]
    assert sum(name.values[0].startswith(library) for name in NAMES) >= 25
