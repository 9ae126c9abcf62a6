"""Stock configs of mmdet and mmsegmentation, with a small SLaK for a backbone, and what is done with each.

    python tests/stock_configs.py [PART_OF_A_NAME ...]

runs all of them, or those named, and prints the rows of the table in docs/stock_configs.md.
"""
import copy
import importlib
import sys
from pathlib import Path
from typing import List, NamedTuple

import numpy as np
import torch
from micro_configs import ARCH, dicts
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from torch import Tensor

import slak_mm  # noqa: F401  (lets torchvision import beside a CPU torch)
from slak_mm.models.build import build_model, quiet
from slak_mm.models.readers import misfits
from slak_mm.sparsity import DynamicSparsity
from slak_mm.training.loss import preprocess, training_mode

SIDE = 64
WIDTHS = [int(channels * 1.3) for channels in ARCH['channels']]
RESNET = 256, 512, 1024, 2048
# what makes a head small: name of an option, and its largest value
LIMITS = dict(num_queries=10, num_proposals=10, max_per_img=10, nms_pre=60, num_points=144, fc_out_channels=16, num=16, channels=32,
              feedforward_channels=64)


class Case(NamedTuple):
    """A stock config, and what has to be said beyond its name.

    Args:
        name: the file, in its library's folder of configs.
        widths: channels of the maps that its own backbone hands out, stride 4 first; for a pyramid without stride 4 three of them.
        changes: options of the config that are set.
        small: whether :data:`LIMITS` hold.
        extra: whether the suite leaves it out, since others are like it, or since it takes long.
    """
    name: str
    widths: tuple = RESNET
    changes: dict = {}
    small: bool = True
    extra: bool = False


DETECTORS = [
    Case('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', extra=True),
    Case('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
    Case('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', extra=True),
    Case('htc/htc_r50_fpn_1x_coco.py', extra=True),
    Case('scnet/scnet_r50_fpn_1x_coco.py', changes={'model.roi_head.feat_relay_head.in_channels': 16}, extra=True),
    Case('dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py'),
    Case('double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py', extra=True),
    Case('libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py'),
    Case('pafpn/faster-rcnn_r50_pafpn_1x_coco.py', extra=True),
    Case('grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py', extra=True),
    Case('sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py', extra=True),
    Case('pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py'),
    Case('ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py', extra=True),
    Case('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py'),
    Case('cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py', extra=True),
    Case('rpn/rpn_r50_fpn_1x_coco.py'),
    Case('panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', extra=True),
    Case('retinanet/retinanet_r50_fpn_1x_coco.py'),
    Case('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', extra=True),
    Case('fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py'),
    Case('atss/atss_r50_fpn_1x_coco.py'),
    Case('gfl/gfl_r50_fpn_1x_coco.py', extra=True),
    Case('vfnet/vfnet_r50_fpn_1x_coco.py'),
    Case('tood/tood_r50_fpn_1x_coco.py'),
    Case('paa/paa_r50_fpn_1x_coco.py', extra=True),
    Case('autoassign/autoassign_r50-caffe_fpn_1x_coco.py'),
    Case('fsaf/fsaf_r50_fpn_1x_coco.py', extra=True),
    Case('free_anchor/freeanchor_r50_fpn_1x_coco.py', extra=True),
    Case('foveabox/fovea_r50_fpn_4xb4-1x_coco.py', extra=True),
    Case('reppoints/reppoints-moment_r50_fpn_1x_coco.py'),
    Case('centernet/centernet-update_r50-caffe_fpn_ms-1x_coco.py', extra=True),
    Case('dyhead/atss_r50_fpn_dyhead_1x_coco.py', extra=True),
    Case('ghm/retinanet_r50_fpn_ghm-1x_coco.py', extra=True),
    Case('yolof/yolof_r50-c5_8xb8-1x_coco.py', extra=True),
    Case('yolo/yolov3_d53_8xb8-320-273e_coco.py', (256, 512, 1024), extra=True),
    Case('yolox/yolox_tiny_8xb8-300e_coco.py', (96, 192, 384)),
    Case('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (96, 192, 384)),
    Case('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', (96, 192, 384)),
    Case('detr/detr_r50_8xb2-150e_coco.py'),
    Case('conditional_detr/conditional-detr_r50_8xb2-50e_coco.py'),
    Case('dab_detr/dab-detr_r50_8xb2-50e_coco.py'),
    Case('deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'),
    Case('deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py'),
    Case('dino/dino-4scale_r50_8xb2-12e_coco.py'),
    Case('ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py'),
    Case('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py', extra=True),
    Case('solo/solo_r50_fpn_1x_coco.py', extra=True),
    Case('solo/decoupled-solo_r50_fpn_1x_coco.py', extra=True),
    Case('solov2/solov2_r50_fpn_1x_coco.py', extra=True),
    Case('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'),
    Case('yolact/yolact_r50_1xb8-55e_coco.py'),
    Case('maskformer/maskformer_r50_ms-16xb1-75e_coco.py'),
    Case('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'),
    Case('mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'),
]
SEGMENTORS = [Case(name) for name in (
    'fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py', 'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py', 'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py',
    'upernet/upernet_r50_4xb4-80k_ade20k-512x512.py', 'ann/ann_r50-d8_4xb4-80k_ade20k-512x512.py',
    'apcnet/apcnet_r50-d8_4xb4-80k_ade20k-512x512.py', 'ccnet/ccnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'danet/danet_r50-d8_4xb4-80k_ade20k-512x512.py', 'dmnet/dmnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'dnlnet/dnl_r50-d8_4xb4-80k_ade20k-512x512.py', 'emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    'encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py', 'isanet/isanet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py', 'psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py',
    'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
    'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py', 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py')]
SEGMENTORS += [
    Case('fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py', changes={'model.auxiliary_head.in_channels': 20}),
    Case('knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py', small=False),
    Case('knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py', small=False, extra=True),
    Case('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', (32, 64, 160, 256)),
    Case('segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py', (32, 64, 160, 256)),
    Case('swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py', (96, 192, 384, 768)),
    Case('convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py', (96, 192, 384, 768)),
    Case('poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py', (64, 128, 320, 512)),
    Case('twins/twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py', (64, 128, 320, 512)),
    Case('ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py', (18, 36, 72, 144)),
    Case('segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py', (0, 0, 0, 384)),
]
CASES = {f'{library}::{case.name}': case for library, cases in (('mmdet', DETECTORS), ('mmseg', SEGMENTORS)) for case in cases}


def load(name: str) -> Config:
    """The stock config, with a small SLaK that hands out the maps that are used. Its heads take them, and are as small as
    :data:`LIMITS` say."""
    library, _, path = name.partition('::')
    cfg, case = Config.fromfile(Path(importlib.import_module(library).__file__).parent / '.mim/configs' / path), CASES[name]
    model = cfg.model
    model.backbone = dict(type='slak_mm.SLaK', arch=ARCH, gap_before_final_norm=False, norm_cfg=dict(type='BN'),
                          layer_scale_init_value=1., drop_path_rate=.1)
    necks = model.get('neck') or []
    neck = necks[0] if isinstance(necks, list) and necks else necks
    stages = take_maps(model, neck, case) if neck or library == 'mmdet' else take_maps_by_index(model)
    model.backbone.out_indices = stages
    for node in dicts(cfg.model if case.small else {}):
        node.update({key: min(node[key], most) for key, most in LIMITS.items() if isinstance(node.get(key), int)})
        if 'layer_cfg' in node:
            node['num_layers'] = 2
        if 'checkpoint' in (node.get('init_cfg') or {}):
            del node['init_cfg']
    if library == 'mmseg':
        model.data_preprocessor.size = (SIDE, SIDE)
        model.test_cfg['mode'] = 'whole'
    model.pop('pretrained', None)
    cfg.merge_from_dict(case.changes)
    return cfg


def take_maps(model: dict, neck: dict, case: Case) -> List[int]:
    """A neck, or a head without one, names the channels of all maps. It may leave out the first ones: they are not handed out then."""
    taker = neck or model.get('panoptic_head') or model['bbox_head']
    taken = taker['in_channels']
    stages = {channels: 4 - len(case.widths) + i for i, channels in enumerate(case.widths)}
    if not isinstance(taken, (list, tuple)):
        taker['in_channels'] = WIDTHS[stages[taken]]
        return [stages[taken]]
    used = taken[taker.get('start_level', 0):]
    if 'start_level' in taker:
        taker['start_level'] = 0
    taker['in_channels'] = type(taken)(WIDTHS[stages[channels]] for channels in used)
    return sorted(stages[channels] for channels in used)


def take_maps_by_index(model: dict) -> List[int]:
    """Segmentors without neck: each head names the maps that it takes."""
    first = model['decode_head']
    if isinstance(first, dict) and 'in_channels' in first and 'in_index' not in first:
        first['in_index'] = [0, 1, 2, 3] if isinstance(first['in_channels'], (list, tuple)) else -1
    heads = [head for head in dicts([first, model.get('auxiliary_head')]) if 'in_index' in head]
    used = {0} if 'c1_in_channels' in first else set()
    for head in heads:
        used |= {*head['in_index']} if isinstance(head['in_index'], (list, tuple)) else {head['in_index']}
        if 'c1_in_channels' in head:
            head['c1_in_channels'] = WIDTHS[0]
    stages = sorted(index % 4 for index in used)
    for head in heads:
        if isinstance(head['in_index'], (list, tuple)):
            head['in_channels'] = [WIDTHS[i] for i in head['in_index']]
            head['in_index'] = [stages.index(i % 4) for i in head['in_index']]
        else:
            head['in_channels'] = WIDTHS[head['in_index']]
            head['in_index'] = stages.index(head['in_index'] % 4)
    return stages


def batch(name: str, cfg: Config) -> dict:
    """Two images, with what the heads are trained on."""
    if name.startswith('mmdet'):
        from mmdet.testing._utils import demo_mm_inputs
        # a semantic branch beside the boxes' wants labels at an eighth of the size
        stride = 8 if 'semantic_head' in (cfg.model.get('roi_head') or {}) else 1
        return demo_mm_inputs(2, [(3, SIDE, SIDE + 32)] * 2, num_items=[3, 4], num_classes=10, with_mask='mask' in str(cfg.model),
                              with_semantic=True, sem_seg_output_strides=stride, use_box_type=True)
    from mmseg.structures import SegDataSample
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, SIDE, SIDE))),
                             metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE))) for _ in range(2)]
    return dict(inputs=[torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


def loss(model: BaseModel, data: dict) -> Tensor:
    """On images as the model trains on them; heads may change what they are given."""
    return model.parse_losses(model._run_forward(preprocess(model, copy.deepcopy(data)), mode='loss'))[0]


def run(name: str) -> dict:
    """Builds the model, takes SNIP's masks, a train step and a prediction. Asserts that each of them does what it should.

    Returns:
        dict: ``loss``, that SNIP takes; ``layers``, how many can have masks; ``unreached``, output norms whose map no head uses;
        ``predicts``.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    cfg = load(name)
    with quiet(), DefaultScope.overwrite_default_scope(name.partition(':')[0]):
        model = build_model(cfg)
        assert not list(misfits(model))
        model.init_weights()
        data, losses = batch(name, cfg), []
        MessageHub.get_current_instance().update_info('epoch', 0)  # as a Runner does before the first batch; TOOD asks for it
        sparsity = DynamicSparsity(model, 100)
        with training_mode(model):
            sparsity.initialize(lambda: losses.append(loss(model, data)) or losses[0])
        masks = sparsity.masks
        assert all(masks.counts().values()) and masks.nonzero == round(.6 * masks.total)

        optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
        model.train()
        losses.append(loss(model, data))
        losses[1].backward()
        # the same loss as in training, but for what is random, and for the weights that are zero now
        assert .1 < losses[1] / losses[0] < 10, losses
        unreached = [parameter for parameter, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert all(parameter.startswith('backbone.norm') for parameter in unreached)
        sparsity.before_step(optimizer)
        optimizer.step()
        sparsity.step(optimizer)
        assert all((masks.params[layer][~mask] == 0).all() for layer, mask in masks.active.items())

        model.eval()
        with torch.no_grad():
            results = model._run_forward(model.data_preprocessor({key: value[:1] for key, value in data.items()}, False), 'predict')
    predicts = [key for key in ('pred_instances', 'pred_panoptic_seg', 'pred_sem_seg') if key in results[0]]
    assert predicts
    return dict(loss=losses[0].item(), layers=len(masks.params), unreached=unreached, predicts=predicts)


def row(name: str) -> str:
    """Of the table."""
    result = run(name)
    norms = sorted({parameter.split('.')[1] for parameter in result['unreached']})
    return (f"| `{name}` | {result['loss']:.2f} | {result['layers']} | {', '.join(result['predicts'])} | "
            f"{', '.join(f'`{norm}` is not used' for norm in norms)} |")


if __name__ == '__main__':
    for case in CASES:
        if not sys.argv[1:] or any(part in case for part in sys.argv[1:]):
            try:
                line = row(case)
            except Exception as error:  # the next one may work
                line = f'| `{case}` | FAILED: {type(error).__name__}: {error} |'
            sys.stdout.write(f'{line}\n')
            sys.stdout.flush()
