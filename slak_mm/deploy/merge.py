"""Merges large kernels: the same results, faster, and no more to be trained."""
from typing import Callable, Dict, Optional

from torch import Tensor, nn

from ..checkpoints.convert import inspect
from ..models import SLaK


def merge_model(model: nn.Module, pad: Optional[int] = None) -> None:
    """Calls ``switch_to_deploy(pad)`` of each SLaK in a model, or of the model if it is one. It changes the model."""
    for module in model.modules():
        if isinstance(module, SLaK):
            module.switch_to_deploy(pad)


def change_state_dict(state_dict: Dict[str, Tensor], change: Callable[[nn.Module], object]) -> Dict[str, Tensor]:
    """The weights of a whole model, its backbone's as ``change`` leaves them, which is :func:`merge_model`, or
    :func:`slak_mm.deploy.compact`.

    Raises:
        CheckpointError: These are not the weights of a SLaK.
    """
    weights, config = inspect(state_dict)
    backbone = SLaK(**config)
    backbone.load_state_dict(weights, strict=False)  # the file may have other output norms: they are kept as they are
    change(backbone)
    changed = {f'backbone.{name}': value for name, value in backbone.state_dict().items() if not name.startswith('norm')}
    replaced = 'backbone.downsample_layers.', 'backbone.stages.'
    return {**changed, **{name: value for name, value in state_dict.items() if not name.startswith(replaced)}}
