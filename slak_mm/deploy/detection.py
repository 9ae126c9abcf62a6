"""Whole detectors of mmdet as one graph: its modules, with a prediction that no data decides the course of."""
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from mmcv.ops import RoIAlign
from torch import Tensor, nn

from ..errors import InputError
from . import operators  # noqa: F401  (defines torch.ops.slak_mm)

Boxes = Tuple[Tensor, Tensor, Tensor]


class LevelRoIExtractor(nn.Module):
    """mmdet's ``SingleRoIExtractor``, by one operator.

    Args:
        extractor (nn.Module): mmdet's.
    """

    def __init__(self, extractor: Any):
        super().__init__()
        self.extractor, self.num_inputs = extractor, extractor.num_inputs

    def forward(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps (1, C, H, W) of each level and regions (n, 5) to (n, C, height, width)."""
        layers = self.extractor.roi_layers
        levels = self.extractor.map_roi_levels(rois, len(maps))
        return torch.ops.slak_mm.roi_align(list(maps), rois, levels, [layer.spatial_scale for layer in layers],
                                           *layers[0].output_size, layers[0].sampling_ratio, layers[0].aligned)


class DetectorGraph(nn.Module):
    """A detector for one image: ``boxes``, ``scores``, ``labels`` and, if it has any, ``masks``.

    Args:
        model (nn.Module): mmdet's. Its RoI extractors are replaced.

    Raises:
        InputError: A part predicts in a way that is not known here.
    """

    def __init__(self, model: Any):
        super().__init__()
        _check_model(model)
        self.model = model
        for part in list(model.modules()):
            for name, child in list(part.named_children()):
                if hasattr(child, 'map_roi_levels'):
                    setattr(part, name, LevelRoIExtractor(child))

    @property
    def output_names(self) -> Sequence[str]:
        """What :meth:`forward` returns."""
        return ('boxes', 'scores', 'labels', 'masks')[:4 if getattr(self.model, 'with_mask', False) else 3]

    @property
    def mask_threshold(self) -> Optional[float]:
        """Least probability of a pixel in a mask; None without masks."""
        return self.model.roi_head.test_cfg.mask_thr_binary if 'masks' in self.output_names else None

    def least(self, divisor: int) -> int:
        """Pixels of a side, a multiple of ``divisor``, from which on every map has two: the exporter takes one for a constant."""
        head = self.model.rpn_head if hasattr(self.model, 'roi_head') else self.model.bbox_head
        stride = max(max(pair) for pair in head.prior_generator.strides)
        return (stride // divisor + 1) * divisor

    def forward(self, images: Tensor, size: Tuple[Any, Any]) -> Tuple[Tensor, ...]:
        """Detections on one image.

        Args:
            images (Tensor): Shape (1, 3, H, W), normalized and padded.
            size (tuple): Height and width of the image without padding, to which boxes are clipped.

        Returns:
            tuple[Tensor]: ``boxes`` (n, 4): x1, y1, x2, y2 on the image; ``scores`` (n,), the best first; ``labels`` (n,);
            ``masks`` (n, h, w): probabilities within the box.
        """
        maps = self.model.extract_feat(images)
        if not hasattr(self.model, 'roi_head'):
            return _dense_boxes(self.model.bbox_head, maps, size)
        proposals = _dense_boxes(self.model.rpn_head, maps, size)[0]
        return self._regions(maps, torch.cat([torch.zeros_like(proposals[:, :1]), proposals], 1), size)

    def _regions(self, maps: Sequence[Tensor], rois: Tensor, size: Tuple[Any, Any]) -> Tuple[Tensor, ...]:
        head = self.model.roi_head
        if _is_cascade(head):
            (rois, ), (logits, ), (deltas, ) = head._refine_roi(maps, rois, [dict(img_shape=size)], (rois.shape[0], ))
            bbox_head = head.bbox_head[-1]
        else:
            found = head._bbox_forward(maps, rois)
            logits, deltas, bbox_head = found['cls_score'], found['bbox_pred'], head.bbox_head
        classes, separate = bbox_head.num_classes, 1 if bbox_head.reg_class_agnostic else bbox_head.num_classes
        priors = rois[:, None, 1:].expand(-1, separate, -1).reshape(-1, 4)
        boxes = _decode(bbox_head.bbox_coder, priors, deltas.reshape(-1, bbox_head.bbox_coder.encode_size), size)
        boxes = boxes.reshape(-1, separate, 4).expand(-1, classes, -1).reshape(-1, 4)
        scores = logits.softmax(-1)[:, :classes].reshape(-1)
        labels = torch.arange(classes, device=boxes.device).repeat(rois.shape[0])
        cfg = head.test_cfg
        boxes, scores, labels = _suppress(boxes, torch.where(scores > cfg.score_thr, scores, -1.), labels, cfg)
        if not head.with_mask:
            return boxes, scores, labels
        return boxes, scores, labels, _masks(head, maps, torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1), labels)


def _masks(head: Any, maps: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
    stages = [(i, ) for i in range(head.num_stages)] if _is_cascade(head) else [()]
    masks = sum(head._mask_forward(*stage, maps, rois)['mask_preds'].sigmoid() for stage in stages) / len(stages)
    if masks.shape[1] > 1:
        masks = masks.gather(1, labels.view(-1, 1, 1, 1).expand(-1, -1, *masks.shape[2:]))
    return masks.squeeze(1)


def _dense_boxes(head: Any, maps: Sequence[Tensor], size: Tuple[Any, Any]) -> Boxes:
    """Boxes, scores and labels of a head that predicts for each place of each map; of an RPN, proposals."""
    cfg, is_rpn = head.test_cfg, type(head).__name__ == 'RPNHead'
    outs = head(maps)
    all_logits, all_deltas = outs[:2]
    factors = outs[2] if len(outs) > 2 and outs[2] is not None else [None] * len(all_logits)
    all_priors = head.prior_generator.grid_priors([logits.shape[-2:] for logits in all_logits], dtype=all_logits[0].dtype,
                                                  device=all_logits[0].device)
    found = []
    for level, (logits, deltas, factor, priors) in enumerate(zip(all_logits, all_deltas, factors, all_priors)):
        logits = logits[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[:, :-1]
        classes = scores.shape[1]
        scores = scores.reshape(-1)
        if cfg.get('nms_pre', -1) > 0:
            scores, places = scores.topk(torch.sym_min(cfg.nms_pre, scores.shape[0]))
        else:
            places = torch.arange(scores.shape[0], device=scores.device)
        rows = places // classes
        labels = torch.full_like(places, level) if is_rpn else places % classes
        if not is_rpn:
            above = scores > cfg.get('score_thr', 0)
            if factor is not None:
                scores = scores * factor[0].permute(1, 2, 0).reshape(-1).sigmoid()[rows]
            scores = torch.where(above, scores, -1.)
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, head.bbox_coder.encode_size)
        found.append((priors[rows], deltas[rows], scores, labels))
    priors, deltas, scores, labels = (torch.cat(parts) for parts in zip(*found))
    boxes = _decode(head.bbox_coder, priors, deltas, size)
    if cfg.get('min_bbox_size', -1) >= 0:
        large = ((boxes[:, 2:] - boxes[:, :2]) > cfg.min_bbox_size).all(1)
        scores = torch.where(large, scores, -1.)
    return _suppress(boxes, scores, labels, cfg)


def _decode(coder: Any, priors: Tensor, deltas: Tensor, size: Tuple[Any, Any]) -> Tensor:
    """Boxes (n, 4), within the image if the coder puts them there."""
    boxes, (height, width) = coder.decode(priors, deltas), size
    if not getattr(coder, 'clip_border', True):
        return boxes
    return torch.stack([boxes[:, i].clamp(0, limit) for i, limit in enumerate((width, height, width, height))], 1)


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: Any) -> Boxes:
    """The best boxes of score above 0, sorted, of which those of one group do not overlap."""
    apart = boxes
    if not cfg.nms.get('class_agnostic', False):
        apart = boxes + (groups.to(boxes.dtype) * (boxes.max() + 1))[:, None]  # mmcv's batched_nms does so
    most = cfg.max_per_img if cfg.max_per_img > 0 else torch.iinfo(torch.int64).max
    kept = torch.ops.slak_mm.nms(apart, scores, float(cfg.nms.iou_threshold), most)
    return boxes[kept], scores[kept], groups[kept]


def _is_cascade(head: Any) -> bool:
    return isinstance(head.bbox_head, nn.ModuleList)


def _check_model(model: Any) -> None:
    """Raises an InputError about the first part that predicts in another way than the functions here."""
    from mmdet.models.dense_heads import RPNHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
    from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    def check(part: Any, kinds: Sequence[type], *methods: str) -> None:
        same = any(all(getattr(type(part), method, 0) is getattr(kind, method, 1) for method in methods) for kind in kinds)
        if not same:
            raise InputError(f'{type(part).__name__} predicts in a way that is not known here, so this detector is not exported as a '
                             'whole: export its backbone with --backbone.')

    roi_head = getattr(model, 'roi_head', None)
    check(model, (SingleStageDetector, ) if roi_head is None else (TwoStageDetector, ), 'predict', 'extract_feat')
    dense = model.bbox_head if roi_head is None else model.rpn_head
    check(dense, (BaseDenseHead, ) if roi_head is None else (RPNHead, ), 'predict_by_feat', '_predict_by_feat_single',
          '_bbox_post_process')
    tests = [dense.test_cfg]
    if roi_head is not None:
        check(roi_head, (StandardRoIHead, CascadeRoIHead), 'predict', 'predict_bbox', 'predict_mask', '_bbox_forward', '_mask_forward')
        tests.append(roi_head.test_cfg)
        for name, kind, methods in (('bbox_head', BBoxHead, ('_predict_by_feat_single', 'regress_by_class')),
                                    ('mask_head', FCNMaskHead, ('_predict_by_feat_single', )),
                                    ('bbox_roi_extractor', SingleRoIExtractor, ('forward', )),
                                    ('mask_roi_extractor', SingleRoIExtractor, ('forward', ))):
            parts = getattr(roi_head, name, None)
            for part in parts if isinstance(parts, nn.ModuleList) else filter(None, [parts]):
                check(part, (kind, ), *methods)
                for layer in getattr(part, 'roi_layers', ()):
                    if type(layer) is not RoIAlign or layer.pool_mode != 'avg':
                        raise InputError(f'{layer} is no RoIAlign of averages, which ONNX has: export the backbone with --backbone.')
    for cfg in tests:
        _check_nms(cfg.get('nms'))


def _check_nms(nms: Optional[Dict[str, Any]]) -> None:
    known = {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
    if not nms or nms.get('type') != 'nms' or not known >= nms.keys():
        raise InputError(f"nms={nms} of the config's test_cfg is not exported: only dict(type='nms', iou_threshold=...) is.")
