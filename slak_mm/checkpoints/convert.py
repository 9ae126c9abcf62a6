"""An official SLaK file (ImageNet, or mmcv-1 downstream) as any OpenMMLab 2.x tool loads it."""
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from ..registry import MODELS
from .file import CheckpointError, load_file, named
from .fit import adapt_state_dict
from .infer import infer_config
from .names import convert_state_dict
from .weights import describe_classes, select_state_dict


def convert(path: str, key: Optional[str] = None, prefix: Optional[str] = None) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """Reads a file and gives its weights our names.

    Args:
        path (str): Path or URL of the file.
        key (str, optional): Entry that holds the weights. Defaults to None: 'state_dict', else 'model'.
        prefix (str, optional): What stands before the backbone's names, if the file holds several backbones.

    Returns:
        tuple[dict[str, Tensor], dict]: Weights by names of ours, the backbone's with 'backbone.' before; and ``dataset_meta``, if the
        file has names of classes.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: It is unreadable or unsafe, or its weights are not those of a SLaK.
    """
    with named(path):
        checkpoint = load_file(path)
        state_dict = convert_state_dict(select_state_dict(checkpoint, key), prefix)
        inspect(state_dict)
    return state_dict, describe_classes(checkpoint)


def inspect(state_dict: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], dict]:
    """The backbone's weights, without prefix, and the arguments of the SLaK that they fit.

    Raises:
        CheckpointError: They fit none.
    """
    SLaK = MODELS.get('SLaK')
    backbone = {name[len('backbone.'):]: value for name, value in state_dict.items() if name.startswith('backbone.')}
    config = infer_config(backbone, SLaK.arch_settings)
    try:
        with torch.device('meta'):
            adapt_state_dict(dict(backbone), '', SLaK(**config))
    except ValueError as error:
        raise CheckpointError(f'These are not the weights of a SLaK. {error}') from None
    return backbone, config


def name_output_norm(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """A classifier's norm after pooling by the name that mmpretrain gives it: it is the output norm of the last stage there."""
    if 'head.fc.weight' not in state_dict:
        return state_dict
    return {name.replace('backbone.norm.', 'backbone.norm3.'): value for name, value in state_dict.items()}


def share_of_zeros(weights: Dict[str, Tensor]) -> float:
    """Share of zeros among the weights of convolutions and linear layers, those of 2 or 4 dimensions."""
    kernels = [value for value in weights.values() if value.ndim in (2, 4)]
    return sum(int((value == 0).sum()) for value in kernels) / max(sum(value.numel() for value in kernels), 1)
