"""tests/warm.py: its Python does what the real one does."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parents[1]
STATE = """
import os, signal, sys, threading, warnings
print(__name__, sys.argv, sys.path[0], os.getcwd(), os.environ['OF_THE_TEST'], threading.active_count(), sys.warnoptions)
print([signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGTERM)], sorted(os.listdir('/proc/self/fd'))[:3])
print(sys.modules['__main__'].__dict__ is globals())
print(sys.stdin.read(), file=sys.stderr)
warnings.warn('not shown')
"""


@pytest.fixture
def both(tmp_path):
    """Runs the same with the warm and the real Python; returns the result, which must be the same."""

    def run(*args, **kwargs):
        env = os.environ | dict(OF_THE_TEST='1', PYTHONPATH=str(ROOT))
        settings = dict(dict(capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60, input=''), **kwargs)
        pythons = warm.python(), sys.executable
        ours, real = (subprocess.run([python, '-W', 'ignore', *map(str, args)], **settings) for python in pythons)
        assert (ours.returncode, ours.stdout, ours.stderr) == (real.returncode, real.stdout, real.stderr)
        return ours

    return run


@pytest.mark.slow
@pytest.mark.parametrize('way', ['script', '-c', '-m', '-'])
def test_a_program_finds_what_a_real_one_finds(both, tmp_path, way):
    (tmp_path / 'program.py').write_text(STATE)
    args, text = {'script': (['program.py'], 'typed'), '-c': (['-c', STATE], 'typed'), '-m': (['-m', 'program'], 'typed'),
                  '-': (['-'], STATE)}[way]
    result = both(*args, 'a', '--b', input=text)
    assert result.returncode == 0 and '__main__' in result.stdout and ('typed' in result.stderr or way == '-')


@pytest.mark.parametrize('code, expected', [
    ('pass', 0), ('raise SystemExit', 0), ('raise SystemExit(3)', 3), ("raise SystemExit('one line')", 1), ('raise ValueError(1)', 1),
    ('1 +', 1), ('import os; os.abort()', -signal.SIGABRT), ('raise KeyboardInterrupt', -signal.SIGINT),
    ("import atexit; atexit.register(print, 'at the end')", 0),
    ("import threading; threading.Timer(.1, print, ['in a thread']).start()", 0),
    ("import os; print('before', flush=True); os._exit(4)", 4),
    ("import multiprocessing as m; p = m.get_context('fork').Process(target=print, args=[1]); p.start(); p.join()", 0),
], ids=range(12))
def test_it_ends_as_a_real_one_ends(both, code, expected):
    assert both('-c', code).returncode == expected


def test_what_it_leaves_to_the_real_one(both):
    assert both('-V').stdout == f'Python {sys.version.split()[0]}\n'
    assert both('-S', '-c', 'import sys; print(sys.executable)').stdout == f'{sys.executable}\n'
    assert both('none.py').returncode != 0


def test_the_modules_are_there_and_ours(tmp_path):
    code = "import sys; print(sys.modules['slak_mm'].__file__, 'mmseg' in sys.modules); import slak_mm.training"
    assert warm.run('-c', code, cwd=tmp_path).stdout.split() == [str(ROOT / 'slak_mm/__init__.py'), 'True']


def test_random_numbers_are_other_ones_each_time():
    code = 'import random, numpy; print(random.random(), numpy.random.rand())'
    first, second = (warm.run('-c', code).stdout.split() for _ in range(2))
    assert not set(first) & set(second)


def test_a_shell_finds_it():
    env = os.environ | dict(PATH=os.pathsep.join((os.path.dirname(warm.python()), os.environ['PATH'])))
    text = "set -e; python - <<'END' | cat\nimport sys\nprint('mmseg' in sys.modules)\nEND\npython -c 'raise SystemExit(7)'"
    result = subprocess.run(['bash', '-c', text], capture_output=True, text=True, env=env)
    assert (result.returncode, result.stdout) == (7, 'True\n')


def is_there(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def wait_until(condition):
    end = time.time() + 30
    while not condition():
        assert time.time() < end
        time.sleep(.02)


SLEEP = "import os, subprocess; child = subprocess.Popen(['sleep', '1000']); print(os.getpid(), child.pid, flush=True); child.wait()"


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_it(number):
    with subprocess.Popen([warm.python(), '-c', SLEEP], stdout=subprocess.PIPE, text=True) as process:
        pids = process.stdout.readline().split()
        process.send_signal(number)
        assert process.wait(30) == -number
        wait_until(lambda: not is_there(pids[0]))
        if number == signal.SIGTERM:  # which a process does not hand to its own
            os.kill(int(pids[1]), signal.SIGKILL)
        wait_until(lambda: not is_there(pids[1]))


@pytest.mark.slow
def test_a_timeout_ends_it_and_its_own():
    with pytest.raises(subprocess.TimeoutExpired) as error:
        warm.run('-c', SLEEP, timeout=2)
    wait_until(lambda: not any(map(is_there, error.value.stdout.split())))


@pytest.mark.slow
def test_nothing_is_left_when_the_server_ends():
    code = f"""
import subprocess, sys
sys.path.insert(0, {str(ROOT / 'tests')!r})
import warm
process = subprocess.Popen([warm.python(), '-c', {SLEEP!r}], stdout=subprocess.PIPE, text=True)
print(warm._server._process.pid, process.stdout.readline(), flush=True)
import os
os._exit(0)  # as if it was killed
"""
    result = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, timeout=300)
    pids = result.stdout.split()
    wait_until(lambda: len(pids) == 3 and not any(map(is_there, pids)))
