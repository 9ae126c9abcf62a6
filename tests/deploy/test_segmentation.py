"""What a segmentor is for export: pooling at any size, and whole inference."""
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from micro_configs import shrink_model
from mmengine import Config
from torch import nn

from slak_mm.deploy.segmentation import AdaptivePool, Segmentor
from slak_mm.models.build import build_model
from slak_mm.zoo import find_config

sizes = st.integers(1, 17)


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, bins=st.integers(1, 7))
def test_pooling_is_torchs(height, width, bins):
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    assert torch.allclose(AdaptivePool(bins)(x), nn.AdaptiveAvgPool2d(bins)(x), atol=1e-12)
    assert torch.allclose(AdaptivePool((bins, 1))(x), nn.AdaptiveAvgPool2d((bins, 1))(x), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize('classes', [5, 1])
def test_whole_inference_at_any_size(classes):
    cfg = shrink_model(Config.fromfile(find_config('upernet_slak_t_160k_ade20k.py')))
    cfg.model.test_cfg = dict(mode='whole')
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.update(num_classes=classes, **(dict(out_channels=1, threshold=.5) if classes == 1 else {}))
        head.loss_decode.use_sigmoid = classes == 1
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    images = torch.randn(2, 3, 64, 96)
    exported = Segmentor(copy.deepcopy(model), free=True)
    assert any(isinstance(part, AdaptivePool) for part in exported.modules())
    with torch.no_grad():
        labels, scores = exported(images, (60, 90))
        logits = model.encode_decode(images, [dict(img_shape=(64, 96))])[:, :, :60, :90]
    assert torch.allclose(scores, logits, atol=1e-5)
    expected = logits.argmax(1) if classes > 1 else (logits.sigmoid() > .5).squeeze(1).long()
    assert torch.equal(labels, expected)
    assert exported.settings == dict(align_corners=False, threshold=.5 if classes == 1 else None)
