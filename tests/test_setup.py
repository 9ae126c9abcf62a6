"""requirements/setup.sh names what is missing, chooses a Python that works, and does nothing twice."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / 'requirements/lock').glob('*.txt'))


def setup(root, **env):
    result = subprocess.run(['bash', str(root / 'requirements/setup.sh')], capture_output=True, text=True, env=os.environ | env)
    return result.returncode, result.stdout + result.stderr


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def bare_checkout(tmp_path):
    ignore = shutil.ignore_patterns('.venv', '.git', 'work_dirs', 'data')
    return shutil.copytree(ROOT, tmp_path / 'checkout', symlinks=True, ignore=ignore)


@pytest.fixture
def pythons(tmp_path):
    """A PATH without any Python, and a function that adds a fake one, which stops when it is to make a venv.

    ``lacks``: 'headers', or a module that it cannot import.
    """
    folder = tmp_path / 'bin'
    folder.mkdir()
    for tool in ('bash', 'sh', 'ls', 'sed', 'sort', 'cat', 'dirname', 'basename', 'grep', 'sha256sum', 'touch', 'g++', 'mktemp', 'rm'):
        (folder / tool).symlink_to(shutil.which(tool))
    (tmp_path / 'include').mkdir()
    (tmp_path / 'include/Python.h').touch()

    def add(name, version, lacks='nothing'):
        include = tmp_path / ('include' if lacks != 'headers' else 'no-include')
        return script(folder / name, f'''case "$*" in
            *version_info*) echo {version} ;;
            *{lacks}*) exit 1 ;;
            *sysconfig*) echo {include} ;;
            *VV*|*-V*) echo Python {version}.9 ;;
            *-m*venv*) echo "{name} makes the venv"; exit 3 ;;
        esac''')
    add.path, add.script = dict(PATH=str(folder), PYTHON=''), lambda name, text: script(folder / name, text)
    return add


@pytest.mark.parametrize('env, command', [
    (dict(PYTHON='python-that-is-not-there'), 'sudo apt-get install python3'),
    (dict(CXX='compiler-that-is-not-there'), 'sudo apt-get install g++'),
])
def test_a_missing_prerequisite_is_named(bare_checkout, env, command):
    code, output = setup(bare_checkout, **env)
    assert code == 1 and command in output
    assert not (bare_checkout / '.venv').exists()


def test_another_python_is_named(bare_checkout, tmp_path):
    python = script(tmp_path / 'python', 'echo 3.8')
    code, output = setup(bare_checkout, PYTHON=str(python))
    assert code == 1 and "is 3.8" in output and 'sudo apt-get install python3' in output
    assert '3.13 3.12 3.11 3.10' in output


@pytest.mark.parametrize('there, chosen', [
    (('3.10', '3.12', '3.11'), 'python3.12'),
    (('3.10', '3.11', '3.12', '3.13'), 'python3.13'),
    (('3.8', '3.10', '3.99'), 'python3.10'),  # no pins for the others
])
def test_the_newest_python_is_chosen(bare_checkout, pythons, there, chosen):
    for version in there:
        pythons(f'python{version}', version)
    code, output = setup(bare_checkout, **pythons.path)
    assert code == 3 and f'{chosen} makes the venv' in output and output.count('makes the venv') == 1


def test_a_python_by_its_plain_name(bare_checkout, pythons):
    pythons('python3', '3.12')
    assert 'python3 makes the venv' in setup(bare_checkout, **pythons.path)[1]


def test_a_python_that_does_not_work_is_skipped(bare_checkout, pythons):
    pythons.script('python3.13', 'echo "pyenv: python3.13: command not found" >&2; exit 127')  # a shim that is not active
    pythons('python3.12', '3.12', lacks='headers')
    pythons('python3.11', '3.11', lacks='ensurepip')
    pythons('python3.10', '3.10')
    code, output = setup(bare_checkout, **pythons.path)
    assert 'python3.10 makes the venv' in output and 'pyenv' not in output


@pytest.mark.parametrize('lacks, command', [('headers', 'python3.12-dev'), ('ensurepip', 'python3.12-venv')])
def test_what_the_newest_lacks_is_named_when_none_works(bare_checkout, pythons, lacks, command):
    pythons('python3.12', '3.12', lacks)
    pythons('python3.10', '3.10', lacks='headers')
    code, output = setup(bare_checkout, **pythons.path)
    assert code == 1 and f'sudo apt-get install {command}\n' in output and 'python3.10' not in output
    assert not (bare_checkout / '.venv').exists()


def test_without_a_python_the_command_is_named(bare_checkout, pythons):
    pythons('python3', '3.8')
    code, output = setup(bare_checkout, **pythons.path)
    assert code == 1 and 'No Python of 3.13 3.12 3.11 3.10' in output and 'sudo apt-get install python3-venv python3-dev' in output


@pytest.mark.parametrize('version, forks', [('3.13', True), ('3.12', False)])
def test_forks_are_announced_in_a_line(bare_checkout, pythons, version, forks):
    """The fake venv has a pip that fails, so setup stops at the first package."""
    python = pythons(f'python{version}', version)
    python.write_text(python.read_text().replace('exit 3', '''
        mkdir -p "$4/bin"; printf '#!/bin/sh\\ncase "$*" in *install*) exit 4; esac' > "$4/bin/python"; chmod +x "$4/bin/python"'''))
    for tool in ('mkdir', 'chmod'):
        (python.parent / tool).symlink_to(shutil.which(tool))
    code, output = setup(bare_checkout, **pythons.path)
    assert code == 4 and len([line for line in output.splitlines() if 'forks' in line]) == forks, output


def test_an_environment_keeps_its_python(bare_checkout, pythons):
    """A newer Python on the machine does not cost a new environment; PYTHON=... does."""
    kept = pythons('python3.11', '3.11')
    pythons('python3.13', '3.13')
    (bare_checkout / '.venv/bin').mkdir(parents=True)
    script(bare_checkout / '.venv/bin/python', f'case "$*" in *_base_executable*) echo {kept} ;; esac')
    assert 'python3.11 makes the venv' in setup(bare_checkout, **pythons.path)[1]
    assert 'python3.13 makes the venv' in setup(bare_checkout, **pythons.path | dict(PYTHON='python3.13'))[1]


@pytest.mark.parametrize('lock', LOCKS, ids=lambda path: path.stem)
def test_locks_pin_all_but_torch_and_hold_nothing_of_a_machine(lock):
    pins = [line for line in lock.read_text().splitlines() if line and not line.startswith('#')]
    assert len(pins) > 100 and all(re.match(r'[a-z0-9-]+==[^ +]+ +# via ', line) for line in pins)
    names = {line.split('==')[0] for line in pins}
    assert not names & {'torch', 'torchvision', 'triton', 'opencv-python'} and not [name for name in names if 'nvidia' in name]
    forks = lock.stem in ('py313', 'py311-forks')
    assert {'onedl-mmcv' if forks else 'mmcv', 'opencv-python-headless', 'numpy', 'setuptools'} <= names
    assert '://' not in lock.read_text() and ' /' not in lock.read_text() and 'make lock' in lock.read_text()


def test_an_environment_behind_a_link_is_left_alone(bare_checkout, pythons, tmp_path):
    """Worktrees may share one; a setup in one of them must not empty it for all."""
    pythons('python3.12', '3.12')
    (tmp_path / 'shared').mkdir()
    (tmp_path / 'shared/pyvenv.cfg').touch()
    (bare_checkout / '.venv').symlink_to(tmp_path / 'shared')
    code, output = setup(bare_checkout, **pythons.path)
    assert code == 1 and 'is a link' in output and 'makes the venv' not in output
    assert [path.name for path in (tmp_path / 'shared').iterdir()] == ['pyvenv.cfg']


own = (ROOT / '.venv').is_dir() and not (ROOT / '.venv').is_symlink() and Path(sys.prefix) == ROOT / '.venv'


@pytest.mark.skipif(not own, reason='not run by `make test`')
def test_a_second_setup_does_nothing():
    assert setup(ROOT) == (0, '')


@pytest.mark.slow
def test_torchvision_imports_in_this_environment():
    """On a CPU build of torch too, in a process that has not imported slak_mm."""
    script = 'import torchvision, mmpretrain, torch; print(torch.ops.torchvision.nms)'
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True)
    assert result.returncode == 0 and 'torchvision.nms' in result.stdout, result.stderr


def test_the_headless_opencv_is_the_one():
    import importlib.metadata
    names = {dist.metadata['Name'] for dist in importlib.metadata.distributions()}
    assert 'opencv-python-headless' in names and 'opencv-python' not in names
