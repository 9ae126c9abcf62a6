"""tools/demo.py: what it reads from logs, what it prints, and how it ends when a step fails. `make demo` itself takes minutes."""
import io
import re
import sys
from pathlib import Path

import pytest
import warm
from rich.console import Console

from slak_mm.errors import UserError
from slak_mm.toy.demo import TASKS, Demo, Progress, paint_overview, read_progress, run_logged

ROOT = Path(__file__).parents[2]
TRAIN = '11/26 23:14:40 - mmengine - INFO - Iter(train) [ 20/600]  lr: 2.0e-03  eta: 0:01:40  loss: 3.1250  decode.loss_ce: 2.2'


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import demo
    yield demo
    del sys.modules['demo']


@pytest.mark.parametrize('line, progress', [
    (TRAIN, Progress(20, 600, 3.125)),
    ('... INFO - Epoch(train)  [3][20/30]  lr: 2e-03  eta: 0:05:00  loss: 1.5  loss_rpn_cls: .5', Progress(80, 480, 1.5)),
    ('... INFO - Epoch(train) [10][ 5/30]  lr: 2e-03', Progress(275, 480)),
    ('... INFO - Epoch(test) [20/32]    eta: 0:00:03', Progress(20, 32)),
    ('... INFO - Iter(val) [20/32]    eta: 0:00:03', None),  # a part of training
    ('... INFO - Epoch(val)   [1][32/32]    coco/bbox_mAP: 0.1', None),
    ('... INFO - Saving checkpoint at 600 iterations', None),
])
def test_progress_is_read_from_the_log(line, progress):
    assert read_progress(line, epochs=16) == progress


def test_output_goes_to_the_log_and_progress_is_reported(tmp_path):
    seen = []
    log = tmp_path / 'demo.log'
    run_logged([sys.executable, '-c', f'import sys; print({TRAIN!r}); print("noise", file=sys.stderr)'], log, report=seen.append)
    run_logged([sys.executable, '-c', 'print("second")'], log)
    assert seen == [Progress(20, 600, 3.125)]
    assert re.search(r'\$ .*\n.*Iter\(train\).*\nnoise\n\n\$ .*\nsecond\n$', log.read_text())


def test_a_program_that_fails_shows_its_last_lines_and_the_log(tmp_path):
    log = tmp_path / 'demo.log'
    with pytest.raises(UserError, match=r'failed with code 3\. Its last lines:') as error:
        run_logged([sys.executable, '-c', 'for i in range(50): print("line", i)\nprint("x" * 9999)\nraise SystemExit(3)'], log)
    message = str(error.value)
    assert 'line 49' in message and 'line 38\n' not in message and str(log) in message
    assert 'line 0\n' in log.read_text() and max(map(len, message.splitlines()[1:])) < 400


@pytest.mark.parametrize('terminal', [False, True])
def test_a_step_prints_few_lines(tool, terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, soft_wrap=True, highlight=False, width=100)

    def step(report):
        for done in range(1, 601):
            report(Progress(done, 600, .5))
        return 'result'

    assert tool.run_step(console, '4/6 train', step) == 'result'
    printed = stream.getvalue()
    assert '4/6 train' in printed and 'done in 0 s' in printed
    assert terminal or len(printed.splitlines()) == 2


def test_progress_without_a_terminal_is_a_line_for_each_fifth(tool, monkeypatch):
    stream, clock = io.StringIO(), iter(range(10_000))
    monkeypatch.setattr(tool.time, 'monotonic', lambda: next(clock))
    tool.run_step(Console(file=stream, soft_wrap=True), '4/6 train', lambda report: [report(Progress(i, 100)) for i in range(1, 101)])
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ['4/6', '20/100,', '40/100,', '60/100,', '80/100,', 'done']


SHORT = dict(ade20k=['train_cfg.max_iters=1'], coco=['train_cfg.max_epochs=1'], voc07=['train_cfg.max_epochs=1'])


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in TASKS if name != 'seg'])
def test_the_whole_demo_shrunk(name, tool, tmp_path, monkeypatch, capsys):
    """All six steps, of each but one that differs from another by its entry in TASKS."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'executable', warm.python())
    scenes = ['--num-train', '8', '--num-val', '4', '--size', '96', '120']
    monkeypatch.setattr(tool.demo, 'Demo', lambda *args: Demo(*args, scenes, SHORT[TASKS[name].layout]))
    tool.main([name, '--work-dir', 'out'])
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) <= 40 and not printed.err
    for number in range(1, 7):
        assert f'{number}/6 ' in printed.out
    for metric in TASKS[name].metrics.values():
        assert metric in printed.out
    assert (tmp_path / 'out/overview.png').is_file() and 'out/overview.png' in printed.out
    log = (tmp_path / 'out/demo.log').read_text()
    assert log.count('\n$ ') == 4 and 'Saving checkpoint' in log and str(Path('out/demo.log')) in printed.out


def test_a_failing_step_ends_the_demo(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'executable', warm.python())
    monkeypatch.setattr(tool.demo, 'Demo', lambda *args: Demo(*args, ['--num-train', '0']))
    with pytest.raises(SystemExit, match=r'(?s)^error: .*make_toy_data\.py.* failed with code .*demo\.log$'):
        sys.modules['common'].run(tool.main, ['--work-dir', 'out'])
    assert '2/6' not in capsys.readouterr().out


def test_overview(tmp_path):
    from PIL import Image
    (tmp_path / 'pictures').mkdir()
    for i in range(3):
        Image.new('RGB', (20, 10), (i, 0, 0)).save(tmp_path / f'pictures/{i}.png')
    paint_overview(tmp_path / 'pictures', tmp_path / 'overview.png')
    with Image.open(tmp_path / 'overview.png') as sheet:
        assert sheet.size == (48, 64) and sheet.getpixel((28, 0)) == (1, 0, 0) and sheet.getpixel((0, 18)) == (2, 0, 0)
