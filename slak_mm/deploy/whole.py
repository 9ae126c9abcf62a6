"""Whole models as one graph: from an image, with or without its normalization, to what the library predicts."""
from typing import Any, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError


def preprocessing(preprocessor: Any) -> Dict[str, Any]:
    """What a library's data preprocessor does to an image in a test: ``preprocess`` of :mod:`slak_mm.deploy.description`.

    Raises:
        InputError: It pads to a fixed size.
    """
    settings = getattr(preprocessor, 'test_cfg', None) or {}
    if settings.get('size'):
        raise InputError('test_cfg of the data_preprocessor pads to a fixed size, which is not exported: leave its size out.')
    normalizes = getattr(preprocessor, '_enable_normalize', False)
    swap = next((getattr(preprocessor, name) for name in ('_channel_conversion', 'channel_conversion', 'to_rgb')
                 if hasattr(preprocessor, name)), False)
    return dict(
        mean=_numbers(preprocessor.mean) if normalizes else None,
        std=_numbers(preprocessor.std) if normalizes else None,
        swap=bool(swap),
        divisor=settings.get('size_divisor') or getattr(preprocessor, 'pad_size_divisor', None) or 1,
        pad_value=float(getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))))


def _numbers(values: Tensor) -> List[float]:
    return [float(str(value)) for value in values.flatten().cpu().numpy()]  # as they were written, 123.675 and not 123.67500305


class Normalize(nn.Module):
    """Pixels (N, 3, H, W), as they were read, to what the network wants.

    Args:
        mean, std (Sequence[float], optional): Of each channel; None for neither.
        swap (bool): Whether red and blue are swapped first.
    """

    def __init__(self, mean: Any, std: Any, swap: bool):
        super().__init__()
        self.swap = swap
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer('mean', torch.tensor(mean or 0.).view(1, -1, 1, 1))
        self.register_buffer('std', torch.tensor(std or 1.).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        images = images.float()
        if self.swap and images.shape[1] == 3:  # the libraries leave other numbers of channels as they are
            images = images.flip(1)
        return (images - self.mean) / self.std


class Whole(nn.Module):
    """A model of a library as a graph.

    Args:
        network (nn.Module): Takes images and their size before they were padded; has ``output_names``.
        normalize (nn.Module): What is done to the images first.
        divisor (int): Height and width are padded to a multiple of it. Defaults to 1.
        pad_value (float): Of the padding. Defaults to 0.
    """

    def __init__(self, network: nn.Module, normalize: nn.Module, divisor: int = 1, pad_value: float = 0.):
        super().__init__()
        self.network, self.normalize, self.divisor, self.pad_value = network, normalize, divisor, pad_value

    @property
    def output_names(self) -> Sequence[str]:
        """What :meth:`forward` returns."""
        return self.network.output_names  # type: ignore[return-value]

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Images (N, 3, H, W) to the outputs of the network."""
        images = self.normalize(images)
        height, width = images.shape[2:]
        if self.divisor > 1:
            images = F.pad(images, (0, -width % self.divisor, 0, -height % self.divisor), value=self.pad_value)
        return self.network(images, (height, width))


class Features(nn.Module):
    """The maps of a backbone: ``stage0`` to ``stage3``, or those that it gives."""

    def __init__(self, backbone: Any):
        super().__init__()
        self.backbone = backbone
        self.output_names = [f'stage{i}' for i in backbone.out_indices]

    def forward(self, images: Tensor, size: Tuple[Any, Any]) -> Tuple[Tensor, ...]:
        """(N, 3, H, W) to a map for each stage."""
        return tuple(self.backbone(images))


class Classifier(nn.Module):
    """A classifier of mmpretrain: ``scores`` (N, classes), or ``logits``.

    Raises:
        InputError: Its head's scores are no softmax.
    """

    def __init__(self, model: Any, logits: bool = False):
        super().__init__()
        from mmpretrain.models import ClsHead
        if getattr(type(getattr(model, 'head', None)), '_get_predictions', None) is not ClsHead._get_predictions:
            raise InputError(f'{type(getattr(model, "head", model)).__name__} predicts in a way that is not known here: only heads '
                             'whose scores are a softmax are exported. Export the backbone with --backbone.')
        self.model, self.output_names = model, ['logits' if logits else 'scores']

    def forward(self, images: Tensor, size: Tuple[Any, Any]) -> Tuple[Tensor, ...]:
        """(N, 3, H, W) to (N, classes)."""
        logits = self.model(images)
        return (logits if self.output_names == ['logits'] else logits.softmax(1)),
