import resource
import signal
import subprocess
import sys

import mmengine.fileio
import pytest

from slak_mm.checkpoint import CheckpointError
from slak_mm.engine.file_backend import AtomicLocalBackend


@pytest.fixture
def no_room():
    """Files end after 1000 bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_it_is_mmengine_s_backend_of_local_files(tmp_path):
    assert isinstance(mmengine.fileio.get_file_backend(str(tmp_path)), AtomicLocalBackend)
    mmengine.fileio.put(b'1234', str(tmp_path / 'new/a.pth'))
    assert mmengine.fileio.get(str(tmp_path / 'new/a.pth')) == b'1234'
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.pth']


def test_a_full_disk_leaves_what_was_there(tmp_path, no_room):
    path = tmp_path / 'epoch_1.pth'
    AtomicLocalBackend().put(b'old', path)
    with pytest.raises(CheckpointError, match=r'epoch_1.pth could not be saved: File too large \(2,000 bytes .*--resume'):
        AtomicLocalBackend().put(b'x' * 2000, path)
    assert path.read_bytes() == b'old' and [*tmp_path.iterdir()] == [path]
    with pytest.raises(OSError, match='File too large'):  # of no checkpoint
        AtomicLocalBackend().put(b'x' * 2000, tmp_path / 'a.png')


@pytest.mark.parametrize('moment', ['os.fsync', 'os.replace'])
def test_killed_in_a_save(tmp_path, moment):
    code = f'''
import os, signal, sys
from slak_mm.engine.file_backend import AtomicLocalBackend
AtomicLocalBackend().put(b'old', sys.argv[1])
{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
AtomicLocalBackend().put(b'new' * 100, sys.argv[1])
'''
    path = tmp_path / 'iter_1.pth'
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_bytes() == b'old'
    AtomicLocalBackend().put(b'again', path)  # what the killed one left is in nobody's way
    assert path.read_bytes() == b'again' and [*tmp_path.iterdir()] == [path]
