"""Whether an exported file predicts what the library's model does: both take the same images, and all that they return is compared."""
from typing import Any, Dict, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from ..errors import InputError, UserError
from .export import prepared, random_images
from .exported import ExportedModel
from .runtime import Runtime

CLEAR, SAME_BOX, SAME_SCORE = .3, .99, 1e-3  # score from which a detection must be found again, with this IoU and score
PART = .99  # of the clear ones


class Agreement(NamedTuple):
    """What a comparison found.

    Args:
        difference (float): The largest one of scores, or of a backbone's maps; relative to the largest of them if that is above 1.
        detections (int, optional): How many of a score above .3 torch has; None if the model is no detector.
        found (int, optional): How many of them the file has too.
    """
    difference: float
    detections: Optional[int] = None
    found: Optional[int] = None

    def check(self, runtime: str, tolerance: float) -> None:
        """Raises a UserError if it is none."""
        if self.detections is not None and self.found is not None and self.found < PART * self.detections:
            raise UserError(f'{runtime} finds {self.found} of the {self.detections} detections of torch again. Nothing was written.')
        if not self.difference <= tolerance:
            raise UserError(f'{runtime} differs from torch by {self.difference:.1e}, more than --tolerance {tolerance:.1e}. Nothing '
                            'was written.')

    def __str__(self) -> str:
        if self.detections is None:
            return f'largest difference {self.difference:.1e}'
        return f'{self.found} of {self.detections} detections found again, largest difference of their scores {self.difference:.1e}'


@torch.no_grad()
def compare(model: Any, runtime: Runtime) -> Agreement:
    """Both on images of a batch, and if they may have any, of sizes that the exporter has not seen, the smallest one included.

    Args:
        model (nn.Module): The library's, as it was trained; or a backbone.
        runtime (Runtime): The file, open.

    Raises:
        InputError: The model takes no images of one of these sizes, in torch.
    """
    described = runtime.description
    least = described['input']['min_size']
    size = described['input']['size']
    batches = [(3, size)] if size else [(3, least), (1, [side + side // 4 + 32 for side in least])]
    return _merge([_compare_images(model, runtime, random_images(described, *batch)) for batch in batches])


def _compare_images(model: Any, runtime: Runtime, images: Tensor) -> Agreement:
    described = runtime.description
    if described['task'] == 'features':
        images = (prepared(images, described) - 128) / 64
        outputs = runtime.run(images.numpy())
        return Agreement(max(_difference(maps, torch.from_numpy(outputs[name])) for name, maps in zip(outputs, model(images))))
    batches = [images[i:i + 1] for i in range(len(images))] if described['input']['batch'] == 1 else [images]
    try:
        expected = [model.test_step(_batch(described['task'], batch)) for batch in batches]
    except RuntimeError as error:
        height, width = images.shape[2:]
        raise InputError(f'in torch, the model takes no images of {height}x{width} pixels ({error}). Give the size of those that it '
                         'takes with --shape; or, if only some multiple will do, set it as model.data_preprocessor.pad_size_divisor.'
                         ) from error
    exported = ExportedModel(runtime, model.data_preprocessor)
    return _merge([_compare(described['task'], ours, exported.test_step(_batch(described['task'], batch)))
                   for ours, batch in zip(expected, batches)])


def _batch(task: str, images: Tensor) -> Dict[str, Any]:
    """As a data loader gives it."""
    meta = dict(img_shape=tuple(images.shape[2:]), ori_shape=tuple(images.shape[2:]), scale_factor=(1., 1.))
    if task == 'classification':
        from mmpretrain.structures import DataSample as Sample
    elif task == 'segmentation':
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    return dict(inputs=[*images], data_samples=[Sample(metainfo=dict(meta)) for _ in images])


def _compare(task: str, ours: Sequence[Any], theirs: Sequence[Any]) -> Agreement:
    if task == 'detection':
        return _merge([_match(a.pred_instances, b.pred_instances) for a, b in zip(ours, theirs)])
    name = 'pred_score' if task == 'classification' else 'seg_logits'
    values = [[getattr(value, 'data', value) for value in (getattr(a, name), getattr(b, name))] for a, b in zip(ours, theirs)]
    return Agreement(max(_difference(a, b) for a, b in values))


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a.detach() - b).abs().max() / a.detach().abs().max().clamp(min=1))


def _merge(parts: Sequence[Agreement]) -> Agreement:
    if parts[0].detections is None:
        return Agreement(max(part.difference for part in parts))
    return Agreement(max(part.difference for part in parts), sum(part.detections or 0 for part in parts),
                     sum(part.found or 0 for part in parts))


def _match(ours: Any, theirs: Any) -> Agreement:
    """How many of our clear detections the others have: same label, nearly the same box and score, and mask if there is one."""
    from mmdet.structures.bbox import bbox_overlaps
    clear = ours[ours.scores > CLEAR]
    if not len(clear) or not len(theirs):
        return Agreement(0., len(clear), 0)
    apart = (clear.scores[:, None] - theirs.scores).abs()
    same = (bbox_overlaps(clear.bboxes, theirs.bboxes) > SAME_BOX) & (clear.labels[:, None] == theirs.labels) & (apart < SAME_SCORE)
    if 'masks' in clear:
        a, b = (instances.masks.flatten(1).float() for instances in (clear, theirs))
        both = a @ b.t()
        union = a.sum(1)[:, None] + b.sum(1) - both
        same &= union - both <= (1 - SAME_BOX) * union + 1  # a pixel may be right on the threshold
    found = same.any(1)
    differences = apart.masked_fill(~same, 1).min(1).values[found]
    return Agreement(float(differences.max()) if len(differences) else 0., len(clear), int(found.sum()))
