"""Exports a model to ONNX: kernels merged, any batch size, images of one size. It is written once onnxruntime agrees with torch."""
import argparse
import sys
import warnings
from pathlib import Path
from typing import List

import common
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch import Tensor, nn

from slak_mm.checkpoints import check_fits, named
from slak_mm.models import SLaK

try:
    import onnx
    import onnxruntime
    import onnxscript.optimizer
except ImportError as missing:
    sys.exit(f'error: {missing.name} is not installed: pip install onnx onnxruntime onnxscript')

OLDEST_TORCH = '2.6'
NO_LIMIT = 2**40


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a classifier or a segmentor; with --backbone, of any model')
    parser.add_argument('checkpoint', help="path or URL; 'none' for random weights")
    parser.add_argument('out', type=Path, metavar='OUT.onnx', help='file to write')
    parser.add_argument('--shape', type=int, nargs=2, default=(224, 224), metavar=('H', 'W'), help='of the images; 224 224 by default')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone: outputs are its feature maps')
    parser.add_argument('--opset', type=int, default=20, help='of ONNX, from 18; defaults to 20, the first that has GELU')
    parser.add_argument('--tolerance', type=float, default=1e-4, help='largest difference to torch, absolute; defaults to 1e-4')
    common.add_cfg_options(parser)
    args = parser.parse_args()
    if min(args.shape) < 32:
        parser.error('--shape: the backbone needs images of at least 32 32')
    if args.opset < 18:
        parser.error("--opset: torch's exporter starts at 18")
    return args


def load(model: nn.Module, path: str) -> None:
    """Into a model that has a ``backbone``, from any file that tools/test.py takes; no weight may stay at random."""
    state_dict = CheckpointLoader.load_checkpoint(common.source(path), 'cpu')['state_dict']
    with named(path):
        check_fits(state_dict, model)
    model.load_state_dict(state_dict, strict=False)


def build(cfg: Config, checkpoint: str, backbone_only: bool) -> nn.Module:
    """The merged model, for inference."""
    init_default_scope(cfg.default_scope)
    model = nn.ModuleDict(dict(backbone=MODELS.build(cfg.model.backbone))) if backbone_only else MODELS.build(cfg.model)
    if checkpoint != 'none':
        load(model, checkpoint)
    for module in model.modules():
        if isinstance(module, SLaK):
            module.switch_to_deploy()
    return revert_sync_batchnorm(model.backbone if backbone_only else model).eval()


def export(model: nn.Module, images: Tensor, output_names: List[str], opset: int) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torch, about itself
        program = torch.onnx.export(model, (images, ), dynamo=True, dynamic_shapes=({0: torch.export.Dim('batch')}, ), verbose=False,
                                    input_names=['images'], output_names=output_names, opset_version=opset)
        # without limits, or the taps that cannot reach a map would be cut off anew at each start
        onnxscript.optimizer.optimize(program.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
    proto = program.model_proto
    for item in (proto, *proto.graph.node):
        del item.metadata_props[:]  # stack traces, with the paths of this machine
    onnx.checker.check_model(proto)
    return proto


def largest_difference(model: nn.Module, content: bytes, images: Tensor) -> float:
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    actual = session.run(None, dict(images=images.numpy()))
    expected = model(images)
    expected = [expected] if isinstance(expected, Tensor) else expected
    return max(float(np.abs(a - e.numpy()).max()) for a, e in zip(actual, expected))


@torch.no_grad()
def main():
    args = parse_args()
    if digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
        sys.exit(f'error: the export needs torch {OLDEST_TORCH} or newer, this is {torch.__version__}. Run it in another environment: '
                 'the checkpoint may be of any.')
    cfg = common.load_config(args)
    if cfg.default_scope == 'mmdet' and not args.backbone:
        sys.exit('error: of a detector only the backbone is exported: add --backbone. For a whole detector use mmdeploy, '
                 'https://github.com/open-mmlab/mmdeploy.')
    with common.refusing(args.config):
        model = build(cfg, args.checkpoint, args.backbone)
    names = [f'stage{i}' for i in model.out_indices] if args.backbone else ['logits']
    shape = (cfg.model.backbone.get('in_channels', 3), *args.shape)
    # with two images: of a single one the exporter might take the batch size for a constant
    content = export(model, torch.randn(2, *shape), names, args.opset).SerializeToString()
    difference = largest_difference(model, content, torch.randn(3, *shape))
    if not difference <= args.tolerance:
        sys.exit(f'error: onnxruntime differs from torch by {difference:.1e}, more than --tolerance {args.tolerance:.1e}. Nothing was '
                 'written.')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(content)
    print(f'{args.out}: {len(content) / 1e6:.1f} MB, images (batch, {", ".join(map(str, shape))}) to {", ".join(names)}.\n'
          f'Largest difference between onnxruntime and torch: {difference:.1e}')


if __name__ == '__main__':
    common.run(main)
