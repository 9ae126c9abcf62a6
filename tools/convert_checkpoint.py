"""Converts an official SLaK file (ImageNet, or mmcv-1 downstream) to one that any OpenMMLab 2.x tool loads."""
import argparse
from pathlib import Path
from typing import Dict, Tuple

import common
import torch
from torch import Tensor

from slak_mm import __version__
from slak_mm.checkpoints import (
    CheckpointError,
    adapt_state_dict,
    convert_state_dict,
    infer_config,
    load_file,
    named,
    select_state_dict,
)
from slak_mm.models import SLaK


def inspect(state_dict: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], dict]:
    """The backbone's weights, without prefix, and the arguments of the SLaK that they fit; an error if they fit none."""
    backbone = {name[len('backbone.'):]: value for name, value in state_dict.items() if name.startswith('backbone.')}
    config = infer_config(backbone, SLaK.arch_settings)
    try:
        with torch.device('meta'):
            adapt_state_dict(dict(backbone), '', SLaK(**config))
    except ValueError as error:
        raise CheckpointError(f'The weights are those of no SLaK. {error}') from None
    return backbone, config


def merge(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The weights of a whole model, its backbone's as ``switch_to_deploy`` leaves them."""
    weights, config = inspect(state_dict)
    backbone = SLaK(**config)
    backbone.load_state_dict(weights, strict=False)  # the file may have other output norms: they are kept as they are
    backbone.switch_to_deploy()
    merged = {f'backbone.{name}': value for name, value in backbone.state_dict().items() if not name.startswith('norm')}
    replaced = 'backbone.downsample_layers.', 'backbone.stages.'
    return {**merged, **{name: value for name, value in state_dict.items() if not name.startswith(replaced)}}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='path or URL of the file to convert')
    parser.add_argument('target', help='file to write')
    parser.add_argument('--key', help="entry that holds the weights, e.g. model_ema; defaults to 'state_dict', else 'model'")
    parser.add_argument('--prefix', help="what stands before the backbone's keys, if the file holds several backbones")
    parser.add_argument('--deploy', action='store_true', help='merge the large kernels, for configs/deploy')
    args = parser.parse_args()

    with named(args.source):
        state_dict = convert_state_dict(select_state_dict(load_file(args.source), args.key), args.prefix)
        inspect(state_dict)
    if args.deploy:
        state_dict = merge(state_dict)
    backbone, config = inspect(state_dict)
    if 'head.fc.weight' in state_dict:
        # in mmpretrain the norm after pooling is the output norm of the last stage
        state_dict = {name.replace('backbone.norm.', 'backbone.norm3.'): value for name, value in state_dict.items()}
    zeros = sum(int((value == 0).sum()) for value in backbone.values() if value.ndim in (2, 4))
    total = sum(value.numel() for value in backbone.values() if value.ndim in (2, 4))
    Path(args.target).parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta=dict(slak_mm_version=__version__), state_dict=state_dict), args.target)

    print(f'{args.target}: {len(state_dict)} tensors; {zeros / max(total, 1):.1%} of the backbone\'s weights are zero. It fits\n')
    print(f"    backbone=dict(type='slak_mm.SLaK', {', '.join(f'{name}={value!r}' for name, value in config.items())})\n")


if __name__ == '__main__':
    common.run(main)
