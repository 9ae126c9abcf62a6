"""What Session does before and after a model, against mmcv, mmpretrain, mmdet and torch, which do it for tools/test.py."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.transforms import CenterCrop, Resize
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmpretrain.datasets.transforms import ResizeEdge

from slak_mm.deploy.session import STEPS, interpolate, paste

SIZES = [(37, 53), (64, 48), (100, 30)]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('step, transform', [
    (dict(op='resize', scale=[80, 64], keep_ratio=True), Resize(scale=(80, 64), keep_ratio=True)),
    (dict(op='resize', scale=[80, 64], keep_ratio=False), Resize(scale=(80, 64))),
    (dict(op='resize', scale=[80, 64], keep_ratio=False, interpolation='bicubic'), Resize(scale=(80, 64), interpolation='bicubic')),
    (dict(op='resize_factor', factor=[1.5, .7]), Resize(scale_factor=(1.5, .7))),
    *[(dict(op='resize_edge', edge=edge, size=40, backend=backend), ResizeEdge(scale=40, edge=edge, backend=backend))
      for edge in ('short', 'long', 'width', 'height') for backend in ('cv2', 'pillow')],
    (dict(op='resize_edge', edge='short', size=40, interpolation='lanczos'), ResizeEdge(scale=40, interpolation='lanczos')),
    (dict(op='center_crop', size=[32, 25]), CenterCrop(crop_size=(25, 32))),
    (dict(op='center_crop', size=[90, 25]), CenterCrop(crop_size=(25, 90))),
])
def test_steps_are_those_of_the_libraries(step, transform, size):
    image = np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8)
    expected = transform(dict(img=image, img_shape=size))['img']
    actual = STEPS[step['op']](image, dict(dict(interpolation='bilinear', backend='cv2'), **step))
    assert actual.dtype == np.uint8 and np.array_equal(actual, expected)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(7, 9), (20, 31), (3, 4), (1, 1), (7, 30)])
def test_interpolate_is_that_of_torch(size, align_corners):
    maps = torch.randn(3, 7, 9)
    expected = F.interpolate(maps[None], size, mode='bilinear', align_corners=align_corners)[0]
    actual = interpolate(maps.numpy(), size, align_corners)
    assert actual.dtype == np.float32
    torch.testing.assert_close(torch.tensor(actual), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize('box', [(3., 4., 20., 15.), (-5., 2.5, 60., 30.7), (10., 10., 10.4, 11.), (30., 20., 44., 33.)])
def test_masks_are_pasted_as_by_mmdet(box):
    mask = torch.rand(28, 28)
    expected = _do_paste_mask(mask[None, None], torch.tensor([box]), 24, 32, skip_empty=False)[0][0]
    actual = paste(mask.numpy(), np.float32(box), (24, 32))
    torch.testing.assert_close(torch.tensor(actual, dtype=torch.float32), expected, rtol=1e-4, atol=1e-4)
    assert (actual.max() > .1) == (box[2] - box[0] > 1)
