import os

import pytest
import torch
from mmengine.logging import HistoryBuffer

from slak_mm.compat import load_weights_only


class Hostile:

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('restricted', [False, True])  # what torch >= 2.6 and what older ones use
class TestLoadWeightsOnly:

    def test_official_files(self, official, restricted, legacy, tmp_path):
        content = torch.load(official, weights_only=True)
        torch.save(content, tmp_path / 'file.pth', _use_new_zipfile_serialization=not legacy)
        loaded = load_weights_only(tmp_path / 'file.pth', 'cpu', restricted)
        assert loaded['args'].kernel_size == [51, 49, 47, 13, 5]
        assert all(torch.equal(value, loaded['model'][name]) for name, value in content['model'].items())

    def test_the_message_hub_of_mmengine(self, restricted, legacy, tmp_path):
        buffer = HistoryBuffer([1., 2.], [1, 1])
        torch.save(dict(buffer=buffer), tmp_path / 'file.pth', _use_new_zipfile_serialization=not legacy)
        assert load_weights_only(tmp_path / 'file.pth', 'cpu', restricted)['buffer'].mean() == 1.5

    @pytest.mark.parametrize('function, args', [
        (os.system, ('touch ran', )), (eval, ('open("ran", "w")', )), (exec, ('open("ran", "w")', )), (__import__, ('os', )),
        (getattr, (HistoryBuffer, '__init__')), (torch.load, ('file.pth', )), (open, ('ran', 'w'))])
    def test_nothing_is_run(self, restricted, legacy, tmp_path, monkeypatch, function, args):
        monkeypatch.chdir(tmp_path)
        torch.save(dict(weights=Hostile(function, *args)), 'file.pth', _use_new_zipfile_serialization=not legacy)
        with pytest.raises(Exception, match='(?i)global|not allowed|Unsupported|weights only'):
            load_weights_only('file.pth', 'cpu', restricted)
        assert os.listdir() == ['file.pth']
