"""What the hostile and broken inputs are made from: a tiny data set, a config, and a checkpoint that a real training of it wrote."""
from types import SimpleNamespace

import pytest
import torch
from hostile_helpers import read, run_tool

from slak_mm.toy import ToySpec, write_ade20k


@pytest.fixture
def tool():
    return run_tool


@pytest.fixture
def refused(capsys):
    """Runs a tool and returns the one line with which it ends."""

    def call(name, *args, words=()):
        with pytest.raises(SystemExit) as ended:
            run_tool(name, *args)
        code = ended.value.code
        line = code if isinstance(code, str) else capsys.readouterr().err.strip().splitlines()[-1]
        assert code and 'error: ' in line and 'Traceback' not in line
        assert '\n' not in line.partition('set in the backbone\'s config:')[0], line  # what follows are lines of a config
        for word in words:
            assert word in line, line
        return line

    return call


@pytest.fixture(scope='session')
def good(tmp_path_factory):
    """``data``, ``config`` and ``checkpoint``: a segmentor, trained sparse for one iteration."""
    root = tmp_path_factory.mktemp('good')
    write_ade20k(root / 'data', ToySpec(num_train=4, num_val=2, size=(64, 80)))
    cfg = read('upernet_slak_micro_toy_ade20k', root / 'data')
    cfg.train_cfg.update(max_iters=2, val_interval=100)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.custom_hooks = [dict(type='slak_mm.SparsityHook', init='uniform', sparsity=.4)]
    cfg.dump(root / 'config.py')
    run_tool('train', root / 'config.py', '--work-dir', root / 'work')
    checkpoint = torch.load(root / 'work/iter_1.pth', weights_only=True)
    assert checkpoint['sparsity']['masks'] and checkpoint['optimizer']
    return SimpleNamespace(data=root / 'data', config=root / 'config.py', path=root / 'work/iter_1.pth')
