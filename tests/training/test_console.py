"""What of mmengine's log is on the console with tools/train.py --quiet, and what is in the log file."""
import logging
from contextlib import nullcontext

import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS
from runner_helpers import Data, Model
from torch.utils.data import DataLoader

from slak_mm.training.console import TABLES, is_short, quiet_console


def settings(work_dir):
    return dict(model=Model(), work_dir=str(work_dir), train_dataloader=DataLoader(Data(), batch_size=8, shuffle=True),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=.1)), train_cfg=dict(by_epoch=True, max_epochs=1),
                default_hooks=dict(logger=dict(type='LoggerHook', interval=1)), cfg=Config(dict(note='of this run')))


@pytest.mark.parametrize('kind', ['Runner', 'FlexibleRunner'])
@pytest.mark.parametrize('quiet', [True, False])
def test_tables_are_in_the_file_alone(kind, quiet, tmp_path, capsys):
    with quiet_console() if quiet else nullcontext():
        runner = RUNNERS.get(kind)(**settings(tmp_path), experiment_name=f'{kind}_{quiet}')
    runner.train()
    console = capsys.readouterr().out
    file = next(tmp_path.glob('*/*.log')).read_text()
    assert all(table in file for table in TABLES) and 'Epoch(train)' in file
    assert [table in console for table in TABLES] == [not quiet] * len(TABLES)
    assert 'Epoch(train)' in console


def test_it_ends_with_the_context(tmp_path):
    with quiet_console():
        pass
    runner = RUNNERS.get('Runner')(**settings(tmp_path), experiment_name='after')
    assert not any(is_short in handler.filters for handler in runner.logger.handlers)


@pytest.mark.parametrize('text, short', [
    ('\n' + '-' * 60 + '\nSystem environment:\n    sys.platform: linux', False),
    ('Config:\nmodel = dict()', False),
    ('Hooks will be executed in the following order:\nbefore_run:', False),
    ('Epoch(train) [1][1/3]', True),
    ('The Config: has a colon', True),
])
def test_what_counts_as_a_table(text, short):
    assert is_short(logging.LogRecord('name', logging.INFO, 'path', 1, text, None, None)) == short
