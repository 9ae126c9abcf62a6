"""2:4 weights on the sparse tensor cores of an NVIDIA GPU."""
import logging
from typing import List

import torch
from mmengine.logging import print_log
from torch import nn

from ..models.bypass import is_plain_tensor
from ..sparsity.pattern import Pattern


def to_semi_structured(model: nn.Module) -> List[str]:
    """Has linear layers multiply by 2:4 weights as such, in place, for inference; what cannot stays dense, and a line says why.

    A layer can if it was trained with ``pattern='2:4'``, is on a GPU from Ampere on, in float16 or bfloat16, and has sides that
    ``torch.sparse.to_sparse_semi_structured`` takes, multiples of 64 in any case: with SLaK's channels, ``width_factor=4/3``. Outputs
    stay equal up to rounding.

    Args:
        model (nn.Module): On its device, in its type. With large kernels merged or not.

    Returns:
        list[str]: Names of the layers that do.
    """
    convert = getattr(torch.sparse, 'to_sparse_semi_structured', None)  # torch >= 2.1
    pattern, done, reasons = Pattern('2:4'), [], []
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or not is_plain_tensor(layer.weight) or not pattern.fits(layer.weight):
            continue
        if not pattern.holds(layer.weight != 0):
            reasons.append('other weights than 2:4')
        elif convert is None:
            reasons.append(f'torch {torch.__version__}, which is older than 2.1')
        else:
            try:
                layer.weight = nn.Parameter(convert(layer.weight.detach()), requires_grad=False)
                done.append(name)
            except (NotImplementedError, RuntimeError, ValueError) as error:  # of torch, about the device, type or sides
                reasons.append((str(error).splitlines() or [type(error).__name__])[0])
    dense = ''.join(f'; {reasons.count(reason)} stay dense: {reason}' for reason in dict.fromkeys(reasons))
    print_log(f'2:4: {len(done)} layers on sparse tensor cores{dense}.', 'current', logging.INFO if done else logging.WARNING)
    return done
