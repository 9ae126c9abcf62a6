"""Some of the same as a shell sees it: the exit code, and one line on stderr."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm

ROOT = Path(__file__).parents[2]
OFFICIAL = ROOT / 'tests/data/slak_micro.pth'


def run(tool, *args, python=None):
    return subprocess.run([python or warm.python(), '-W', 'ignore', ROOT / f'tools/{tool}.py', *map(str, args)], capture_output=True,
                          text=True, timeout=300)


def missing(folder):
    return ['convert_checkpoint', folder / 'absent.pth', folder / 'out.pth'], 'absent.pth is not there'


def to_a_file_as_folder(folder):
    (folder / 'file').touch()
    return ['convert_checkpoint', OFFICIAL, folder / 'file/out.pth'], 'Name a file that can be read, or a folder'


def cut_short(folder):
    (folder / 'short.pth').write_bytes(OFFICIAL.read_bytes()[:5000])
    return ['convert_checkpoint', folder / 'short.pth', folder / 'out.pth'], 'it is cut short'


def a_typo(folder):
    return ['test', ROOT / 'configs/upernet_slak_micro_toy_ade20k.py', 'none.pth', '--work-dir', folder, '--cfg-options',
            'model.backbone.archs=tiny'], "unexpected keyword argument 'archs'"


def no_config(folder):
    return ['predict', ROOT / 'docs/images/demo_seg.png', folder / 'absent.py', 'none.pth'], 'absent.py: No such file'


def not_an_option(folder):
    return ['test', folder / 'absent.py', 'none.pth', '--cfg-options', 'batch_size'], 'batch_size is not KEY=VALUE'


@pytest.mark.slow
@pytest.mark.parametrize('case', [missing, to_a_file_as_folder, cut_short, a_typo, no_config, not_an_option])
def test_exit_code_and_last_line(tmp_path, case):
    (tool, *args), words = case(tmp_path)
    ended = run(tool, *args)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode in (1, 2) and 'error: ' in last and words in last and 'Traceback' not in ended.stderr
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.slow
def test_a_hostile_file_in_a_new_interpreter(tmp_path):
    class Hostile:

        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')", )

    torch.save(dict(torch.load(OFFICIAL, weights_only=True), args=Hostile()), tmp_path / 'case.pth')
    ended = run('convert_checkpoint', tmp_path / 'case.pth', tmp_path / 'out', python=sys.executable)
    assert ended.returncode == 1 and ended.stderr.startswith('error: ') and 'Nothing was run.' in ended.stderr
    assert ended.stderr.count('\n') == 1 and [path.name for path in tmp_path.iterdir()] == ['case.pth']
