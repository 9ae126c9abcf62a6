"""The public names, for :mod:`slak_mm`. To import this registers everything."""
# isort: skip_file
from .compat import versions  # noqa: F401  (first: the rest relies on it)
from .analysis.mask_picture_hook import MaskPictureHook  # noqa: F401
from .checkpoints import PretrainedInit  # noqa: F401
from .hub import from_pretrained, push_to_hub, save_pretrained  # noqa: F401
from .implicit_gemm import provide_implicit_gemm  # noqa: F401
from .models import SLaK  # noqa: F401
from .reliability import CheckInvalidLossHook, CheckpointHook, ExactResumeHook  # noqa: F401
from .training import (  # noqa: F401
    CPUAmpOptimWrapper, Distilled, DistilledClassifier, LayerDecayOptimWrapperConstructor, SparseExponentialMovingAverage,
    SparsityHook)
from .zoo import get_model, list_models  # noqa: F401
