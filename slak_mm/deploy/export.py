"""Models in ONNX: kernels merged, any batch size, images of one size. Needs onnx, onnxruntime and onnxscript."""
import warnings
from typing import Any, List, Sequence, Tuple

import numpy as np
import onnx
import onnxruntime
import onnxscript.optimizer
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch import Tensor, nn

from ..checkpoints import check_fits, named, source
from ..errors import InputError, UserError
from ..models.backbones import backbone_cfg, backbone_cfgs, backbone_of
from ..models.build import build_model
from ..registry import enter_scope, library_of
from .merge import merge_model

OLDEST_TORCH = '2.6'
NO_LIMIT = 2**40


def check_exportable(cfg: Config, backbone_only: bool) -> None:
    """Refuses what cannot be exported, before any work is done.

    Raises:
        UserError: torch is too old.
        InputError: The config is a whole detector's.
    """
    if digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
        raise UserError(f'the export needs torch {OLDEST_TORCH} or newer, this is {torch.__version__}. Run it in another environment: '
                        'the checkpoint may be of any.')
    if library_of(cfg) == 'mmdet' and not backbone_only:
        raise InputError('of a detector only the backbone is exported: add --backbone. For a whole detector use mmdeploy, '
                         'https://github.com/open-mmlab/mmdeploy.')


def load(model: nn.Module, path: str) -> None:
    """Into a model that has a ``backbone``, from any file that tools/test.py takes; no weight may stay at random."""
    state_dict = CheckpointLoader.load_checkpoint(source(path), 'cpu')['state_dict']
    with named(path):
        check_fits(state_dict, model)
    model.load_state_dict(state_dict, strict=False)


def build(cfg: Config, checkpoint: str, backbone_only: bool = False) -> nn.Module:
    """The merged model, for inference.

    Args:
        cfg (Config): Of the whole model.
        checkpoint (str): Path or URL; 'none' for random weights.
        backbone_only (bool): The backbone alone, whose outputs are its feature maps. Defaults to False.
    """
    enter_scope(cfg)
    model = _build_backbone(cfg) if backbone_only else build_model(cfg)
    if checkpoint != 'none':
        load(model, checkpoint)
    merge_model(model)
    return revert_sync_batchnorm(backbone_of(model) if backbone_only else model).eval()


def _build_backbone(cfg: Config) -> nn.Module:
    """The backbone alone, in modules that give its weights the names that they have in the whole model."""
    module = MODELS.build(backbone_cfg(cfg))
    for part in reversed(next(iter(backbone_cfgs(cfg))).split('.')[1:]):
        module = nn.ModuleDict({part: module})
    return module


def export(model: nn.Module, images: Tensor, output_names: Sequence[str], opset: int = 20) -> onnx.ModelProto:
    """Exports a model with torch's exporter, simplified, with a dynamic batch size.

    Args:
        model (nn.Module): Of :func:`build`.
        images (Tensor): (N, C, H, W) as it will be given, with N of 2 or more: of 1 the exporter might take it for a constant.
        output_names (Sequence[str]): One for each output.
        opset (int): Of ONNX, from 18. Defaults to 20, the first that has GELU.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torch, about itself
        program: Any = torch.onnx.export(
            model, (images, ), dynamo=True, dynamic_shapes=({0: torch.export.Dim('batch')}, ), verbose=False, input_names=['images'],
            output_names=output_names, opset_version=opset)
        # without limits, or the taps that cannot reach a map would be cut off again at each start
        onnxscript.optimizer.optimize(program.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
    proto = program.model_proto
    for item in (proto, *proto.graph.node):
        del item.metadata_props[:]  # stack traces, with the paths of this machine
    onnx.checker.check_model(proto)
    return proto


def largest_difference(model: nn.Module, content: bytes, images: Tensor) -> float:
    """Between outputs of onnxruntime, on the CPU, and of torch, for the same (N, C, H, W) images: absolute."""
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    actual = session.run(None, dict(images=images.numpy()))
    expected = model(images)
    expected = [expected] if isinstance(expected, Tensor) else expected
    return max(float(np.abs(a - e.numpy()).max()) for a, e in zip(actual, expected))


@torch.no_grad()
def export_checked(model: nn.Module, shape: Sequence[int], output_names: List[str], opset: int = 20,
                   tolerance: float = 1e-4) -> Tuple[bytes, float]:
    """Exports a model and runs the result in onnxruntime.

    Args:
        model (nn.Module): Of :func:`build`.
        shape (Sequence[int]): Channels, height and width of an image.
        output_names (list[str]): One for each output.
        opset (int): See :func:`export`.
        tolerance (float): Largest difference to torch, absolute. Defaults to 1e-4.

    Returns:
        tuple[bytes, float]: The content of the ONNX file, and :func:`largest_difference`.

    Raises:
        UserError: The difference is larger.
    """
    content = export(model, torch.randn(2, *shape), output_names, opset).SerializeToString()
    difference = largest_difference(model, content, torch.randn(3, *shape))
    if not difference <= tolerance:
        raise UserError(f'onnxruntime differs from torch by {difference:.1e}, more than --tolerance {tolerance:.1e}. Nothing was '
                        'written.')
    return content, difference
