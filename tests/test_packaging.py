"""A wheel built from the sdist carries configs, tools and model index, and they are found where mmengine and mim look."""
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it, of a checkout in which tools were run, so that byte code lies in its folders."""
    source, out = tmp_path_factory.mktemp('source') / 'slak_mm', tmp_path_factory.mktemp('built')
    unneeded = shutil.ignore_patterns('.*_cache', '.venv', '.git', 'work_dirs', 'build', '*.egg-info', 'dist')
    shutil.copytree(ROOT, source, symlinks=True, ignore=unneeded)
    for folder in ('slak_mm', 'tools', 'configs/_base_'):
        (source / folder / '__pycache__').mkdir(exist_ok=True)
        (source / folder / '__pycache__/left_over.cpython-311.pyc').touch()
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, source]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, PYTHONWARNINGS='ignore'))
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.fixture(scope='module')
def wheel(built):
    return next(built.glob('*.whl'))


def shipped(folder):
    return [path.relative_to(ROOT) for path in (ROOT / folder).rglob('*') if path.is_file() and '__pycache__' not in path.parts]


@pytest.mark.slow
def test_the_wheel_holds_all_that_users_need(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('configs', 'tools'):
        for path in shipped(folder):
            assert f'slak_mm/.mim/{path}' in names
    assert 'slak_mm/.mim/model-index.yml' in names and 'slak_mm/sparsity/masks.py' in names and 'slak_mm/py.typed' in names
    assert not [name for name in names if name.startswith('tests') or '__pycache__' in name]
    metadata = next(name for name in names if name.endswith('METADATA'))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert all(f'Provides-Extra: {extra}' in text for extra in ('cls', 'det', 'seg', 'all', 'dev'))
    assert 'Requires-Dist: numpy\n' in text and not [line for line in text.splitlines()
                                                     if line.startswith('Requires-Dist: mm') and 'extra ==' not in line]
    assert 'License: Apache-2.0\n' in text and 'License-File: LICENSE\n' in text
    licence = next(name for name in names if name.endswith('LICENSE'))
    assert zipfile.ZipFile(wheel).read(licence).decode() == (ROOT / 'LICENSE').read_text()


@pytest.mark.slow
def test_the_sdist_holds_files_in_place_of_links(built):
    with tarfile.open(next(built.glob('*.tar.gz'))) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    names = {member.name.partition('/')[2] for member in members}
    assert {f'slak_mm/.mim/{path}' for folder in ('configs', 'tools') for path in shipped(folder)} <= names
    assert {'LICENSE', 'CITATION.cff', 'README.md', 'setup.py', 'pyproject.toml', 'slak_mm/.mim/model-index.yml'} <= names
    assert not [name for name in names if name.startswith('tests') or '__pycache__' in name]


@pytest.mark.slow
def test_a_package_index_accepts_both(built):
    result = subprocess.run([sys.executable, '-m', 'twine', 'check', '--strict', *built.iterdir()], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.count('PASSED') == 2, result.stdout + result.stderr


@pytest.mark.slow
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


def test_the_citation_names_this_version():
    import slak_mm
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == slak_mm.__version__ and citation['license'] == 'Apache-2.0'
    assert citation['preferred-citation']['title'].startswith('More ConvNets in the 2020s')


@pytest.mark.slow
def test_the_types_that_py_typed_promises_have_no_error():
    result = subprocess.run([sys.executable, '-m', 'mypy'], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and 'no issues found' in result.stdout, result.stdout + result.stderr


@pytest.fixture
def linkless(tmp_path):
    """A checkout in which links are small files with their target in them, as git on Windows and archives leave it."""
    unneeded = shutil.ignore_patterns('.*_cache', '.venv', '.git', 'work_dirs', 'build', '*.egg-info', 'dist', 'tests', 'docs')
    shutil.copytree(ROOT, tmp_path / 'checkout', symlinks=True, ignore=unneeded)
    for name in ('configs', 'tools', 'model-index.yml'):
        link = tmp_path / 'checkout/slak_mm/.mim' / name
        target = os.readlink(link)
        link.unlink()
        link.write_text(target)
    return tmp_path / 'checkout'


@pytest.mark.slow
def test_a_checkout_without_links_serves_its_configs(linkless):
    (linkless / 'mine.py').write_text("_base_ = 'slak_mm::_base_/static_sparsity.py'\n")
    script = '''
import slak_mm
from mmengine import Config
print(slak_mm.__file__, len(slak_mm.list_models()), Config.fromfile('mine.py').custom_hooks[0].type)
'''
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True, cwd=linkless)
    count = len(list((ROOT / 'configs').glob('*.py'))) + len(list((ROOT / 'configs/ablations').glob('*.py')))
    assert result.stdout.split() == [str(linkless / 'slak_mm/__init__.py'), str(count), 'slak_mm.SparsityHook'], result.stderr


@pytest.mark.slow
def test_a_package_built_without_links_is_whole(linkless, tmp_path):
    command = [sys.executable, 'setup.py', '-q', 'sdist', '-d', tmp_path, 'build', '-b', tmp_path / 'build']
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, PYTHONWARNINGS='ignore'), cwd=linkless)
    assert result.returncode == 0, result.stderr
    expected = {'slak_mm/.mim/model-index.yml', *(f'slak_mm/.mim/{path}' for name in ('configs', 'tools') for path in shipped(name))}
    built = {str(path.relative_to(tmp_path / 'build/lib')) for path in (tmp_path / 'build/lib').rglob('*')}
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        packed = {name.partition('/')[2] for name in archive.getnames()}
    assert expected <= built and expected <= packed
    assert (tmp_path / 'build/lib/slak_mm/.mim/model-index.yml').read_text() == (ROOT / 'model-index.yml').read_text()
    assert (linkless / 'slak_mm/.mim/configs').is_file()  # nothing was changed in the checkout


def test_an_installation_without_configs_says_why(monkeypatch, tmp_path):
    import slak_mm
    from slak_mm.compat import versions
    monkeypatch.setattr(versions, 'CONFIGS', tmp_path / 'configs')
    for call in (slak_mm.list_models, lambda: slak_mm.get_model('slak_t_300e_in1k'), lambda: versions.find_config('x.py')):
        with pytest.raises(FileNotFoundError, match='symbolic links were lost'):
            call()
