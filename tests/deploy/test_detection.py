"""The graph of a detector against mmdet's own predict, in torch: all kinds of heads that are exported, and those that are not."""
import copy
from pathlib import Path

import pytest
import torch
from micro_configs import ARCH
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope
from versions import needs_torch

from slak_mm.errors import InputError

pytestmark = needs_torch('2.6')
WIDTHS = [10, 15, 20, 26]
SLAK = dict(type='slak_mm.SLaK', arch=ARCH, out_indices=(0, 1, 2, 3), gap_before_final_norm=False, norm_cfg=dict(type='BN'))
SIZE = 90, 120  # not a multiple of 32


def config(base):
    import mmdet
    cfg = Config.fromfile(Path(mmdet.__file__).parent / f'.mim/configs/{base}.py').model
    cfg.backbone = SLAK
    cfg.neck = dict(type='FPN', in_channels=WIDTHS, out_channels=32, num_outs=5)
    cfg.pop('_scope_', None)
    for head in ('rpn_head', 'bbox_head'):
        if head in cfg:
            cfg[head].update(in_channels=32, feat_channels=32, **({} if head == 'rpn_head' else dict(num_classes=3)))
    if 'roi_head' in cfg:
        heads = cfg.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.update(in_channels=32, fc_out_channels=8, num_classes=3)
        cfg.roi_head.bbox_roi_extractor.out_channels = 32
        if 'mask_head' in cfg.roi_head:
            cfg.roi_head.mask_roi_extractor.out_channels = 32
            cfg.roi_head.mask_head.update(in_channels=32, conv_out_channels=8, num_classes=3)
        cfg.test_cfg.rpn.update(nms_pre=40, max_per_img=30)
    return cfg


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():  # scores far from each other
        if name.endswith(('fc_cls.weight', 'cls.weight', 'retina_cls.weight', 'conv_cls.weight')) or 'rtm_cls' in name:
            value.data.normal_(0, (.1 if 'retina' in name else 3) / value[0].numel()**.5, generator=generator)
        elif value.ndim == 1 and name.endswith('bias'):
            value.data.normal_(0, .3, generator=generator)
    return model


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('base', [
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco', 'retinanet/retinanet_r50_fpn_1x_coco', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco'])
def test_the_same_detections_as_predict(base):
    from mmdet.structures import DetDataSample

    from slak_mm.deploy.detection import DetectorGraph
    from slak_mm.deploy.whole import Whole
    cfg = config(base)
    if 'rtmdet' in base:
        cfg.neck.num_outs = 3
        cfg.neck.in_channels, cfg.backbone = WIDTHS[1:], dict(SLAK, out_indices=(1, 2, 3))
        cfg.bbox_head.anchor_generator.strides = [8, 16, 32]
        cfg.test_cfg.update(nms_pre=100, max_per_img=20)
    model = build(cfg)
    images = torch.randn(1, 3, *SIZE)
    padded = torch.nn.functional.pad(images, (0, -SIZE[1] % 32, 0, -SIZE[0] % 32))
    expected = model.predict(padded, [DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1., 1.)))])[0]
    expected = expected.pred_instances
    whole = Whole(DetectorGraph(copy.deepcopy(model)), torch.nn.Identity(), 32)
    outputs = dict(zip(whole.output_names, whole(images)))
    assert len(expected) >= 5 and [len(value) for value in outputs.values()] == [len(expected)] * len(outputs)
    torch.testing.assert_close(outputs['boxes'], expected.bboxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(outputs['scores'], expected.scores, rtol=0, atol=1e-5)
    assert torch.equal(outputs['labels'], expected.labels)
    assert ('masks' in outputs) == ('masks' in expected)
    assert (outputs['boxes'][:, 2:].max(0).values <= torch.tensor(SIZE[::-1])).all()


@pytest.mark.parametrize('base, change, message', [
    ('retinanet/retinanet_r50_fpn_1x_coco', lambda cfg: cfg.test_cfg.nms.update(type='soft_nms'), "'soft_nms'"),
    ('gfl/gfl_r50_fpn_1x_coco', lambda cfg: None, 'GFLHead predicts in a way that is not known here'),
    ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco', lambda cfg: cfg.roi_head.bbox_roi_extractor.update(type='GenericRoIExtractor'),
     'GenericRoIExtractor predicts in a way'),
    ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco', lambda cfg: cfg.roi_head.bbox_roi_extractor.roi_layer.update(pool_mode='max'),
     'is no RoIAlign'),
])
def test_other_ways_to_predict_are_refused(base, change, message):
    from slak_mm.deploy.detection import DetectorGraph
    cfg = config(base)
    change(cfg)
    with pytest.raises(InputError, match=message):
        DetectorGraph(build(cfg))
