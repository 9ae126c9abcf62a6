import os

import numpy as np
import pytest
import torch
from mmengine import hub
from mmengine.logging import HistoryBuffer
from versions import needs_torch

from slak_mm.compat import load_weights_only


class Hostile:

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('legacy', [False, True])
# what torch >= 2.6 and what older ones use
@pytest.mark.parametrize('restricted', [pytest.param(False, marks=needs_torch('2.6')), True])
class TestLoadWeightsOnly:

    def test_official_files(self, official, restricted, legacy, tmp_path):
        content = load_weights_only(official, 'cpu')
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

    def test_no_objects_pass_for_numbers(self, restricted, legacy, tmp_path):
        class Dtype:  # of objects, but with a state that says it holds none: numpy would take bytes for an address
            def __reduce__(self):
                return np.dtype, ('O', False, True), (3, '|', None, None, None, -1, -1, 0)

        class Scalar:
            def __reduce__(self):
                return np.float64(0).__reduce__()[0], (Dtype(), b'A' * 8)

        torch.save(dict(value=Scalar()), tmp_path / 'file.pth', _use_new_zipfile_serialization=not legacy)
        with pytest.raises(Exception, match="'O'.* is not allowed|'O8'.* is not allowed"):
            load_weights_only(tmp_path / 'file.pth', 'cpu', restricted)


class TestHub:

    def test_our_configs(self):
        pytest.importorskip('mmseg')
        cfg = hub.get_config('slak_mm::upernet_slak_t_160k_ade20k.py')
        assert cfg.model.backbone.type == 'slak_mm.SLaK' and cfg.model.decode_head.in_channels == [124, 249, 499, 998]
        assert hub.hub.get_config is hub.get_config

    def test_what_it_cannot_do(self):
        with pytest.raises(ValueError, match='slak_mm.get_model'):
            hub.get_config('slak_mm::upernet_slak_t_160k_ade20k.py', pretrained=True)
        with pytest.raises(FileNotFoundError, match='no_such_config'):
            hub.get_config('slak_mm::no_such_config.py')

    def test_configs_of_others(self):
        pytest.importorskip('mmdet')
        assert hub.get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model.type == 'FasterRCNN'
