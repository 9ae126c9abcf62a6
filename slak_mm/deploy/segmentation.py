"""Segmentors of mmseg as one graph, on whole images or by sliding windows."""
from functools import reduce
from operator import add
from typing import Any, Dict, Tuple

import torch
from torch import Tensor, nn

from ..errors import InputError


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` for maps whose size is not known yet: the mean of each bin, by two products with matrices.

    Args:
        size (int | tuple[int, int]): Height and width of the output.
    """

    def __init__(self, size: Any):
        super().__init__()
        self.size = size if isinstance(size, tuple) else (size, size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, height, width)."""
        rows, columns = (_bins(x, dim, count) for dim, count in zip((2, 3), self.size))
        return rows @ x @ columns.t()


def _bins(x: Tensor, dim: int, count: int) -> Tensor:
    length = x.shape[dim]
    place, bins = torch.arange(length, device=x.device), torch.arange(count, device=x.device)[:, None]
    inside = (place >= bins * length // count) & (place < ((bins + 1) * length + count - 1) // count)
    weights = inside.to(x.dtype)
    return weights / weights.sum(1, keepdim=True)


class Segmentor(nn.Module):
    """A segmentor: ``labels`` (N, H, W) and ``scores`` (N, classes, H, W), which are its logits.

    Args:
        model (nn.Module): mmseg's.
        free (bool): Whether images may have any size; pooling layers are replaced for it. Defaults to False.

    Raises:
        InputError: It infers in another way than mmseg's ``EncoderDecoder``.
    """

    output_names = 'labels', 'scores'

    def __init__(self, model: Any, free: bool = False):
        super().__init__()
        from mmseg.models.segmentors import EncoderDecoder
        if any(getattr(type(model), name, 0) is not getattr(EncoderDecoder, name)
               for name in ('predict', 'inference', 'slide_inference', 'whole_inference', 'postprocess_result')):
            raise InputError(f'{type(model).__name__} predicts in a way that is not known here. Export the backbone with --backbone.')
        self.model = model
        self.slides = model.test_cfg.mode == 'slide'
        if free and not self.slides:
            for part in list(model.modules()):
                for name, child in list(part.named_children()):
                    if isinstance(child, nn.AdaptiveAvgPool2d):
                        setattr(part, name, AdaptivePool(child.output_size))

    def forward(self, images: Tensor, size: Tuple[Any, Any]) -> Tuple[Tensor, ...]:
        """(N, 3, H, W), which may be padded, to results for each pixel of an image of ``size``."""
        logits = self._slide(images) if self.slides else self._decode(images)
        logits = logits[:, :, :size[0], :size[1]]
        if logits.shape[1] > 1:
            return logits.argmax(1), logits
        return (logits.sigmoid() > self.model.decode_head.threshold).squeeze(1).long(), logits

    def _decode(self, images: Tensor) -> Tensor:
        return self.model.encode_decode(images, [dict(img_shape=images.shape[2:])])

    def _slide(self, images: Tensor) -> Tensor:
        """The mean of overlapping windows, all of them computed as one batch."""
        cfg, (batch, _, *size) = self.model.test_cfg, images.shape
        rows, columns = (_Windows(*sizes, images.device) for sizes in zip(size, cfg.crop_size, cfg.stride))
        windows = images[:, :, rows.places][..., columns.places].permute(2, 4, 0, 1, 3, 5).flatten(0, 2)
        logits = self._decode(windows).unflatten(0, (rows.count, columns.count, batch))
        # (rows, height, columns, width, N, classes): whole pixels are copied then
        logits = logits.permute(0, 4, 1, 5, 2, 3).contiguous().flatten(2, 3).flatten(0, 1)
        return rows.mean(columns.mean(logits, 1), 0).permute(2, 3, 0, 1)

    @property
    def settings(self) -> Dict[str, Any]:
        """``segmentation`` of :mod:`slak_mm.deploy.description`."""
        head = self.model.decode_head
        return dict(align_corners=head.align_corners, threshold=head.threshold if self.model.out_channels == 1 else None)


class _Windows:
    """Where windows are along one side of an image, as mmseg puts them. A length that is not known yet is at least a window's."""

    def __init__(self, length: Any, window: int, stride: int, device: Any):
        self.window = min(window, length) if isinstance(length, int) else window
        self.length, self.stride = length, stride
        self.count = (length - self.window + stride - 1) // stride + 1
        self.pixels = torch.arange(length, device=device)
        starts = self._starts(torch.arange(self.count, device=device))
        self.places = starts[:, None] + torch.arange(self.window, device=device)  # (count, window)

    def _starts(self, numbers: Tensor) -> Tensor:
        return (numbers * self.stride).clamp(max=self.length - self.window)  # the last one ends where the image does

    def mean(self, values: Tensor, dim: int) -> Tensor:
        """Of each pixel, over the windows that it is in: a ``dim`` of count * window becomes one of length.

        The windows of a pixel have numbers in a row. As many as there can be are looked up, backwards from the last one. To add into
        an output at repeated places would be shorter, but onnxruntime's ScatterND has threads that overwrite each other's sums.
        """
        last = torch.where(self.pixels >= self.length - self.window, self.count - 1, self.pixels // self.stride)
        found = []
        for number in (last - i for i in range(-(-self.window // self.stride) + 1)):
            within = self.pixels - self._starts(number)
            found.append((number.clamp(min=0) * self.window + within.clamp(max=self.window - 1),
                          ((number >= 0) & (within < self.window)).to(values.dtype)))
        total = reduce(add, (weight for _, weight in found))
        shape = [1] * dim + [-1] + [1] * (values.dim() - dim - 1)
        return reduce(add, (values.index_select(dim, place) * (weight / total).view(shape) for place, weight in found))
