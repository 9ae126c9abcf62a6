import pytest
import torch

import slak_mm
from slak_mm.checkpoints import CheckpointError


def test_list_models():
    names = slak_mm.list_models()
    assert {'slak_t_300e_in1k', 'upernet_slak_b_160k_ade20k', 'cascade_mask_rcnn_slak_t_1x_coco'} <= set(names)
    assert slak_mm.list_models('*_voc07') == ['faster_rcnn_slak_t_36e_voc07']
    assert not [name for name in names if 'base' in name or 'deploy' in name]


def test_get_model_loads_a_file_whole(tmp_path):
    model = slak_mm.get_model('upernet_slak_micro_toy_ade20k')
    assert not model.training and type(model.backbone) is slak_mm.SLaK
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'file.pth')
    loaded = slak_mm.get_model('upernet_slak_micro_toy_ade20k', pretrained=str(tmp_path / 'file.pth'))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_get_model_refuses_what_does_not_fit(official):
    with pytest.raises(ValueError, match='Did you mean slak_t_300e_in1k'):
        slak_mm.get_model('slak_t_300e_in1K')
    with pytest.raises(CheckpointError):
        slak_mm.get_model('slak_t_300e_in1k', pretrained=str(official))
