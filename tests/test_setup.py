"""requirements/setup.sh names what is missing, and does nothing twice."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def setup(root, **env):
    result = subprocess.run(['bash', str(root / 'requirements/setup.sh')], capture_output=True, text=True, env=os.environ | env)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def bare_checkout(tmp_path):
    ignore = shutil.ignore_patterns('.venv', '.git', 'work_dirs', 'data')
    return shutil.copytree(ROOT, tmp_path / 'checkout', symlinks=True, ignore=ignore)


@pytest.mark.parametrize('env, command', [
    (dict(PYTHON='python-that-is-not-there'), 'sudo apt-get install python3.11'),
    (dict(CXX='compiler-that-is-not-there'), 'sudo apt-get install g++'),
])
def test_a_missing_prerequisite_is_named(bare_checkout, env, command):
    code, output = setup(bare_checkout, **env)
    assert code == 1 and command in output
    assert not (bare_checkout / '.venv').exists()


def test_another_python_is_named(bare_checkout, tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho 3.8\n')
    python.chmod(0o755)
    code, output = setup(bare_checkout, PYTHON=str(python))
    assert code == 1 and "is 3.8" in output and 'sudo apt-get install python3.11' in output


@pytest.mark.skipif(Path(sys.prefix) != ROOT / '.venv', reason='not run by `make test`')
def test_a_second_setup_does_nothing():
    assert setup(ROOT) == (0, '')


def test_torchvision_imports_in_this_environment():
    """On a CPU build of torch too, in a process that has not imported slak_mm."""
    script = 'import torchvision, mmpretrain, torch; print(torch.ops.torchvision.nms)'
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True)
    assert result.returncode == 0 and 'torchvision.nms' in result.stdout, result.stderr


def test_the_headless_opencv_is_the_one():
    import importlib.metadata
    names = {dist.metadata['Name'] for dist in importlib.metadata.distributions()}
    assert 'opencv-python-headless' in names and 'opencv-python' not in names
