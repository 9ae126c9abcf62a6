"""A wheel carries configs, tools and model index, and they are found where mmengine and mim look."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp('source') / 'slak_mm', tmp_path_factory.mktemp('wheel')
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns('.venv', '.git', 'work_dirs', 'build', '*.egg-info'))
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', out, source], check=True)
    return next(out.glob('*.whl'))


def test_the_wheel_holds_all_that_users_need(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                assert f'slak_mm/.mim/{path.relative_to(ROOT)}' in names
    assert 'slak_mm/.mim/model-index.yml' in names and 'slak_mm/sparsity/masks.py' in names
    assert not [name for name in names if name.startswith('tests') or '__pycache__' in name]
    metadata = next(name for name in names if name.endswith('METADATA'))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert all(f'Provides-Extra: {extra}' in text for extra in ('cls', 'det', 'seg', 'all', 'dev'))
    assert 'Requires-Dist: numpy\n' in text and not [line for line in text.splitlines()
                                                     if line.startswith('Requires-Dist: mm') and 'extra ==' not in line]


def test_an_installed_wheel_serves_configs_and_tools(wheel, tmp_path):
    target = tmp_path / 'site'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', target, wheel], check=True)
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'slak_mm::upernet_slak_b_160k_ade20k.py'\n")
    script = f'''
import slak_mm
from mmengine import Config
assert slak_mm.__file__.startswith({str(target)!r}), slak_mm.__file__
print(Config.fromfile({str(config)!r}).model.decode_head.in_channels)
'''
    env = os.environ | dict(PYTHONPATH=str(target))
    run = dict(capture_output=True, text=True, env=env, cwd=tmp_path)
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], **run)
    assert '[166, 332, 665, 1331]' in result.stdout, result.stderr
    result = subprocess.run([sys.executable, '-W', 'ignore', target / 'slak_mm/.mim/tools/train.py', '--help'], **run)
    assert '--pretrained' in result.stdout, result.stderr


def test_a_checkout_serves_its_own_configs():
    import slak_mm
    mim = Path(slak_mm.__file__).parent / '.mim'
    assert (mim / 'configs').resolve() == ROOT / 'configs' and (mim / 'tools').resolve() == ROOT / 'tools'
    assert (mim / 'model-index.yml').resolve() == ROOT / 'model-index.yml'
