"""The docs site builds strictly: no warning, no dead internal link, no page left out; the API reference has every public name."""
import inspect
import io
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import slak_mm

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PACKAGES = ['slak_mm', *(info.name for info in walk_packages(slak_mm.__path__, 'slak_mm.') if info.ispkg)]


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-n', '-b', 'html', ROOT / 'docs', out]
    env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONWARNINGS='ignore')
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.returncode == 0 and not result.stderr, result.stdout + result.stderr
    return out


def test_each_page_is_on_the_site(site):
    assert {path.stem for path in (ROOT / 'docs').glob('*.md')} <= {path.stem for path in site.glob('*.html')}


def test_each_public_class_and_function_is_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile
    inventory = InventoryFile.load(io.BytesIO((site / 'objects.inv').read_bytes()), '', os.path.join)
    documented = {name.rpartition('.')[2] for kind in ('py:class', 'py:function', 'py:exception') for name in inventory[kind]}
    modules = [import_module(name) for name in PACKAGES]
    public = {name for module in modules for name in getattr(module, '__all__', ())
              if inspect.isclass(getattr(module, name)) or inspect.isfunction(getattr(module, name))}
    assert len(public) > 40 and not public - documented
