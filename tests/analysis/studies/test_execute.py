import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slak_mm.analysis.studies.execute import Executor, Pace, pack, read_results, unpack
from slak_mm.analysis.studies.plan import Run
from slak_mm.errors import UserError
from slak_mm.toy.demo import Progress

RUN = Run('toy', 'dense', 0, 'slak_micro_toy_in1k.py', dict(epochs=1), 'accuracy/top1')


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_packed_bits_come_back(bits):
    assert unpack(pack(bits)) == bits


def test_packed_bits_are_as_documented():
    assert pack([True, False, True, True]) == 'b/4' and pack([True] * 5) == 'f8/5'


def test_a_line_that_was_cut_off_is_made_again(tmp_path):
    path = tmp_path / 'toy.jsonl'
    path.write_text('{"seed": 0}\n{"se')
    assert read_results(path) == [{'seed': 0}] and path.read_text() == '{"seed": 0}\n'
    path.write_text('{"seed": 0\n{"seed": 1}\n')
    with pytest.raises(UserError, match='Remove that line'):
        read_results(path)
    assert read_results(tmp_path / 'none.jsonl') == []


def test_results_of_other_settings_are_refused(tmp_path):
    results = tmp_path / 'toy.jsonl'
    entry = dict(study='toy', variant='dense', seed=0, settings=RUN.settings, options=[])
    results.write_text(json.dumps(entry) + '\n')
    assert Executor(tmp_path, tmp_path, results).pending([RUN, RUN._replace(seed=1)]) == [RUN._replace(seed=1)]
    for executor, run in ((Executor(tmp_path, tmp_path, results, options=['--amp']), RUN),
                          (Executor(tmp_path, tmp_path, results), RUN._replace(changes=dict(epochs=2)))):
        with pytest.raises(UserError, match="'dense', seed 0, that was made with other settings"):
            executor.pending([run])


def fail(tmp_path, **programs):
    """What is told of two runs that fail, with the programs as the tools."""
    for name, text in programs.items():
        path = tmp_path / f'tools/{name}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/a.py').write_text('train_cfg = dict(max_epochs=1)')
    runs = [RUN._replace(config='a.py', seed=seed) for seed in range(2)]
    failed = {}
    with pytest.raises(UserError, match='2 runs failed; the same command tries them again'):
        Executor(tmp_path / 'tools', tmp_path / 'work', tmp_path / 'results.jsonl', jobs=2).run(
            runs, lambda run, progress: None, failed=lambda run, error: failed.update({run.seed: error}))
    assert read_results(tmp_path / 'results.jsonl') == []
    return failed


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    failed = fail(tmp_path, train='import sys; sys.exit("there is no such data")')
    assert set(failed) == {0, 1} and all('there is no such data' in error for error in failed.values())


def test_a_fault_of_ours_does_not_wait_for_the_others(tmp_path):
    failed = fail(tmp_path, train='')  # writes no last_checkpoint
    assert set(failed) == {0, 1} and all('FileNotFoundError' in error and 'Traceback' in error for error in failed.values())


def test_pace():
    pace = Pace(4)
    assert pace.describe() == '0.0/4'
    pace.update(RUN, Progress(1, 2, .5))
    pace.update(RUN, Progress(1, 9))  # of the test
    assert pace.done == .5 and pace.describe().startswith('0.5/4, about 0 min left')
    pace.end(RUN)
    pace.update(RUN._replace(seed=1), Progress(3, 4, .5))
    assert pace.done == 1.75
