"""Lets torchvision be imported beside a CPU build of torch.

torchvision's wheels are linked to CUDA. Beside a CPU build of torch their compiled part cannot load, and ``import torchvision``
(so mmpretrain's too) dies with *operator torchvision::nms does not exist*. Declaring the two operators that its Python part
refers to is enough; calling them still fails, as it should.

This file stands alone: ``make setup`` copies it into the environment, where a ``.pth`` file runs :func:`install` at start-up.
"""
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

_library = None  # a torch.library.Library takes its definitions back when it is collected


class _TorchvisionFinder(MetaPathFinder):
    """Finds nothing itself; acts once, just before torchvision is imported, so that other programs pay nothing."""

    def find_spec(self, name, path=None, target=None):
        if name == 'torchvision':
            sys.meta_path.remove(self)
            _declare_operators()


def _declare_operators() -> None:
    global _library
    import torch
    spec = importlib.util.find_spec('torchvision')
    if torch.version.cuda or torch.version.hip or spec is None or spec.origin is None or hasattr(torch.ops.torchvision, 'nms'):
        return
    try:
        for extension in Path(spec.origin).parent.glob('_C*.so'):
            torch.ops.load_library(str(extension))
            return  # a CPU build: its operators are real
    except OSError:
        pass
    _library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        _library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')


def install() -> None:
    """Arranges for the operators to be declared when, and only when, torchvision is imported."""
    if 'torchvision' not in sys.modules:
        sys.meta_path.insert(0, _TorchvisionFinder())
