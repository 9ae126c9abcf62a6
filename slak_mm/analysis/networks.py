"""The networks that the paper compares, as classifiers, and what is measured of them."""
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, Callable, Dict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import SLaK
from ..sparsity import DynamicSparsity
from .authors_layout import AuthorsLayoutSLaK
from .throughput import peak_memory

CLASSES = 1000
BASELINE, OURS, MERGED, WITH_CP = "authors' layout", 'SLaK', 'SLaK merged', 'SLaK with_cp'
CONVNEXT = 'ConvNeXt', 'ConvNeXt channels_last'


class Classifier(nn.Module):
    """A backbone, and a linear layer on the mean of its last map, in one of the memory layouts."""

    def __init__(self, backbone: nn.Module, channels: int, channels_last: bool = False):
        super().__init__()
        self.backbone: Any = backbone
        self.head = nn.Linear(channels, CLASSES)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stub does not know it

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x.contiguous(memory_format=self.memory_format))[-1]
        return self.head(x if x.dim() == 2 else x.mean((2, 3)))


def slak(arch: dict, **options) -> Classifier:
    """A classifier on :class:`slak_mm.SLaK`."""
    backbone = SLaK(arch, norm_cfg=dict(type='BN'), **options)
    return Classifier(backbone, backbone.channels[-1])


def without_neurons(arch: dict, share: float) -> Classifier:
    """A SLaK without ``share`` of the hidden units of each block, as :func:`slak_mm.deploy.compact` leaves one."""
    hidden = [[max(round((1 - share) * 4 * width), 1)] * depth for width, depth in zip(SLaK(arch).channels, arch['depths'])]
    return slak(arch, mlp_channels=hidden)


def swin(arch: str, size: int) -> Classifier:
    """A classifier on mmpretrain's Swin Transformer, for images of ``size`` x ``size``."""
    from mmpretrain.models import SwinTransformer
    backbone = SwinTransformer(arch, img_size=size, pad_small_map=True)
    return Classifier(backbone, backbone.num_features[-1])


def builders(arch: dict) -> Dict[str, Callable[[], Classifier]]:
    """Name of each convolutional network with the depths and channels of ``arch``, and what builds it."""
    from mmpretrain.models import ConvNeXt
    channels, widened = arch['channels'], SLaK(arch).channels
    return {
        BASELINE: lambda: Classifier(AuthorsLayoutSLaK(arch['depths'], widened), widened[-1]),
        OURS: lambda: slak(arch),
        WITH_CP: lambda: slak(arch, with_cp=True),
        CONVNEXT[0]: lambda: Classifier(ConvNeXt(arch), channels[-1]),
        CONVNEXT[1]: lambda: Classifier(ConvNeXt(arch), channels[-1], channels_last=True),
    }


def merged(model: Classifier) -> Classifier:
    """A copy of a classifier on :class:`slak_mm.SLaK`, with its large-kernel layers merged."""
    model = deepcopy(model).eval()
    model.backbone.switch_to_deploy()
    return model


def inference_case(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """What runs ``model`` on ``images``, as it is used: in evaluation, on their device, in their type."""
    model = model.to(images.device, images.dtype).eval()
    return torch.inference_mode()(lambda: model(images))


class TrainStep:
    """Forward, cross entropy and backward, under autocast unless in float32; then AdamW."""

    def __init__(self, model: nn.Module, batch: int, size: int, device: str, dtype: torch.dtype):
        self.model = model.to(device).train()
        self.images = torch.randn(batch, 3, size, size, device=device)
        self.labels = torch.randint(CLASSES, (batch, ), device=device)
        self.context = nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)
        try:
            self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        except (RuntimeError, TypeError):  # an older torch
            self.optimizer = torch.optim.AdamW(model.parameters())

    def loss(self) -> Tensor:
        with self.context:
            return F.cross_entropy(self.model(self.images), self.labels)

    def compute(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()

    def update(self) -> None:
        self.optimizer.step()

    def __call__(self) -> None:
        self.compute()
        self.update()


class MaskedTrainStep(TrainStep):
    """The same with dynamic sparsity at 40%, adapted every 100 steps as in the paper."""

    def __init__(self, *args):
        super().__init__(*args)
        self.sparsity = DynamicSparsity(self.model, total_steps=10**6, interval=100)
        self.sparsity.initialize(self.loss)

    def update(self) -> None:
        self.sparsity.before_step(self.optimizer)
        self.optimizer.step()
        self.sparsity.step(self.optimizer)


def memory_of_training(name: str, arch: dict, batch: int, size: int, device: str, dtype: torch.dtype, threads: int) -> int:
    """Bytes that the network ``name`` of :func:`builders`, its optimizer and two train steps need; for a process of its own."""
    torch.set_num_threads(threads)

    def run(arch: dict, batch: int, size: int) -> None:
        step = TrainStep(builders(arch)[name](), batch, size, device, dtype)
        step()
        step()

    run(dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)), 1, 64)  # libraries load their code at the first use of it
    return peak_memory(lambda: run(arch, batch, size), device)
