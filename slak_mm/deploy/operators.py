"""What detectors need and torch has no operators for: as operators of our own, each a few standard ones in ONNX."""
from typing import Any, Callable, Dict, List

import torch
from mmcv.ops import nms as mmcv_nms
from mmcv.ops import roi_align as mmcv_roi_align
from onnxscript import opset18
from torch import Tensor

op: Any = opset18


@torch.library.custom_op('slak_mm::nms', mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Non-maximum suppression among boxes whose score is above 0.

    Args:
        boxes (Tensor): Shape (n, 4): x1, y1, x2, y2.
        scores (Tensor): Shape (n,).
        iou_threshold (float): A box that overlaps a better one by more is dropped.
        most (int): How many to keep at most.

    Returns:
        Tensor: Indices of those that are kept, the best first, shape (k,).
    """
    candidates = (scores > 0).nonzero().squeeze(1)
    kept = mmcv_nms(boxes[candidates], scores[candidates], iou_threshold)[1]
    return candidates[kept][:most].clone()


@nms.register_fake
def _(boxes, scores, iou_threshold, most):
    # it may be 0 or 1, for which libraries have ways of their own that compute the same: none is to be recorded
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(min=2), dtype=torch.int64)


@torch.library.custom_op('slak_mm::roi_align', mutates_args=())
def roi_align(maps: List[Tensor], rois: Tensor, levels: Tensor, scales: List[float], height: int, width: int, sampling_ratio: int,
              aligned: bool) -> Tensor:
    """RoIAlign, each region from the map of its level.

    Args:
        maps (list[Tensor]): Of each level, (N, C, H, W).
        rois (Tensor): Shape (n, 5): image, x1, y1, x2, y2.
        levels (Tensor): Shape (n,), integers.
        scales (list[float]): Of each level, its size over the image's.
        height, width (int): Of what is cut out.
        sampling_ratio (int): Samples in each bin, in both directions; 0 for as many as it has pixels.
        aligned (bool): Whether half a pixel is taken off first.

    Returns:
        Tensor: Shape (n, C, height, width).
    """
    out = maps[0].new_zeros(len(rois), maps[0].shape[1], height, width)
    for i, (features, scale) in enumerate(zip(maps, scales)):
        chosen = (levels == i).nonzero().squeeze(1)
        if len(chosen):
            out[chosen] = mmcv_roi_align(features, rois[chosen], (height, width), scale, sampling_ratio, 'avg', aligned)
    return out


@roi_align.register_fake
def _(maps, rois, levels, scales, height, width, sampling_ratio, aligned):
    return maps[0].new_empty(rois.shape[0], maps[0].shape[1], height, width)


def _integers(*values: int) -> Any:
    return op.Constant(value_ints=values)


def _nms_to_onnx(boxes, scores, iou_threshold: float, most: int):
    selected = op.NonMaxSuppression(op.Unsqueeze(boxes, _integers(0)), op.Unsqueeze(scores, _integers(0, 1)), _integers(most),
                                    op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[0.]))
    return op.Reshape(op.Slice(selected, _integers(2), _integers(3), _integers(1)), _integers(-1))


def _roi_align_to_onnx(maps, rois, levels, scales, height: int, width: int, sampling_ratio: int, aligned: bool):
    places: Any = []
    regions: Any = []
    for i, (features, scale) in enumerate(zip(maps, scales)):
        place = op.Reshape(op.NonZero(op.Equal(levels, _integers(i))), _integers(-1))
        chosen = op.Gather(rois, place)
        image, boxes = (op.Slice(chosen, _integers(start), _integers(end), _integers(1)) for start, end in ((0, 1), (1, 5)))
        regions.append(op.RoiAlign(
            features, boxes, op.Cast(op.Reshape(image, _integers(-1)), to=7), spatial_scale=scale, output_height=height,
            output_width=width, sampling_ratio=sampling_ratio,
            coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel'))
        places.append(place)
    if len(maps) == 1:
        return regions[0]
    places = op.Concat(*places, axis=0)
    # where in the regions by level each region of the input went
    order = op.TopK(places, op.Shape(places), axis=0, largest=0)[1]
    return op.Gather(op.Concat(*regions, axis=0), order)


def translations() -> Dict[Callable, Callable]:
    """Of each operator here, what torch's exporter is to write."""
    return {torch.ops.slak_mm.nms.default: _nms_to_onnx, torch.ops.slak_mm.roi_align.default: _roi_align_to_onnx}
