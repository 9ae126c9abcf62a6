import re
import signal

import mmengine.fileio
import pytest
import warm

from slak_mm.reliability.file_backend import AtomicLocalBackend


def test_it_is_mmengine_s_backend_of_local_files(tmp_path):
    assert isinstance(mmengine.fileio.get_file_backend(str(tmp_path)), AtomicLocalBackend)
    mmengine.fileio.put(b'1234', str(tmp_path / 'new/a.pth'))
    assert mmengine.fileio.get(str(tmp_path / 'new/a.pth')) == b'1234'
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.pth']


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(tmp_path):
    code = '''
import resource, signal, sys
from slak_mm.checkpoints import CheckpointError
from slak_mm.reliability.file_backend import AtomicLocalBackend
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # files end after 1000 bytes
AtomicLocalBackend().put(b'old', sys.argv[1])
try:
    AtomicLocalBackend().put(b'x' * 2000, sys.argv[1])
except CheckpointError as error:
    print(error)
AtomicLocalBackend().put(b'x' * 2000, sys.argv[1] + '.png')  # no checkpoint: the error is the system's own
'''
    path = tmp_path / 'epoch_1.pth'
    result = warm.run('-c', code, path)
    assert re.search(r'epoch_1.pth could not be saved: File too large \(2,000 bytes .* free\).*--resume', result.stdout), result
    assert result.returncode == 1 and 'OSError: [Errno 27] File too large' in result.stderr
    assert path.read_bytes() == b'old' and [*tmp_path.iterdir()] == [path]


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['os.fsync', 'os.replace'])
def test_killed_in_a_save(tmp_path, moment):
    code = f'''
import os, signal, sys
from slak_mm.reliability.file_backend import AtomicLocalBackend
AtomicLocalBackend().put(b'old', sys.argv[1])
{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
AtomicLocalBackend().put(b'new' * 100, sys.argv[1])
'''
    path = tmp_path / 'iter_1.pth'
    assert warm.run('-c', code, path).returncode == -signal.SIGKILL
    assert path.read_bytes() == b'old'
    AtomicLocalBackend().put(b'again', path)  # what the killed one left is in nobody's way
    assert path.read_bytes() == b'again' and [*tmp_path.iterdir()] == [path]
