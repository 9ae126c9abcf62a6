"""Reading a file: what stock tools refuse too, links, and what is not there. Broken and hostile files are in tests/hostile."""
import functools
import http.server
import os
import pickle
import threading
from collections import OrderedDict

import pytest
import torch
from checkpoint_helpers import assert_parity, load

from slak_mm.checkpoints.file import CheckpointError, load_file
from slak_mm.compat import HAS_ALLOW_LIST, load_weights_only


class Hostile:

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f'touch {self.target}', )


class HostileGetattr:
    """mmengine's own files ask for getattr, so it is allowed under conditions: these are not they."""

    def __reduce__(self):
        return getattr, (OrderedDict, '__init__')


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('kind', ['system', 'getattr'])
def test_a_hostile_pickle_never_runs(micro, official, tmp_path, kind, legacy):
    target = tmp_path / 'ran'
    hostile = Hostile(target) if kind == 'system' else HostileGetattr()
    path = tmp_path / 'hostile.pth'
    torch.save(dict(load_weights_only(official, 'cpu'), args=hostile), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match='is refused|cannot be read'):
        load(micro, path)
    if HAS_ALLOW_LIST:  # stock tools read files this way; with an older torch they run what a file holds
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            torch.load(path)
    assert not target.exists()


def test_a_missing_file(micro, tmp_path):
    with pytest.raises(FileNotFoundError, match='README.md says where'):
        load(micro, tmp_path / 'absent.pth')


def test_a_key_that_is_not_there(micro, official):
    with pytest.raises(CheckpointError, match=r"no weights under key='ema'.*\['model', 'model_ema'\]"):
        load(micro, official, key='ema')


# ---- URLs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local server whose links end alike, as the authors' do; and an empty cache."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    root = tmp_path / 'www'
    root.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield root, f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


def test_two_urls_never_share_a_file(server):
    root, url = server
    for i, name in enumerate(('a', 'b')):
        (root / 's' / name).mkdir(parents=True)
        torch.save({'weight': torch.full((1, ), float(i))}, root / 's' / name / 'download')
    for _ in range(2):
        assert [load_file(f'{url}/s/{name}/download')['weight'].item() for name in ('a', 'b')] == [0., 1.]
    for name in ('a', 'b'):  # the second time came from the cache
        (root / 's' / name / 'download').unlink()
    assert load_file(f'{url}/s/b/download')['weight'].item() == 1.


def test_init_cfg_takes_a_url(server, micro, official, expected):
    root, url = server
    (root / 'download').write_bytes(official.read_bytes())
    assert_parity(load(micro, f'{url}/download'), expected)


def test_a_dead_link(server, micro):
    with pytest.raises(CheckpointError, match='cannot be downloaded.*404'):
        load(micro, f'{server[1]}/absent')
