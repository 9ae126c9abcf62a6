from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The model in a wrapper for distributed training, or the model itself."""
    return model.module if is_model_wrapper(model) else model
