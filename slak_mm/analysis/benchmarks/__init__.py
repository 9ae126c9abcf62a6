"""What things cost on this machine. The cases of a part are measured in turn, in one run, and compared by their medians."""
import os
import platform
from importlib.metadata import version
from types import SimpleNamespace
from typing import Callable, Dict, Optional, Tuple

import torch

from ...errors import InputError
from .gpu import gpu, markdown
from .layers import layer, scaling
from .models import forms, inference, neurons, train, upkeep
from .result import DTYPES, Result, medians_of
from .runtimes import runtimes

__all__ = ['DTYPES', 'PARTS', 'Result', 'machine', 'markdown', 'measure', 'medians_of']

ON_CPU = dict(device='cpu', dtype='fp32')
# name: what measures it, and the defaults of its options
PARTS: Dict[str, Tuple[Callable[[SimpleNamespace], Result], dict]] = dict(
    layer=(layer, dict(batch=8, channels=384, resolutions=[16, 32, 64, 128], kernel_size=51, **ON_CPU)),
    inference=(inference, dict(arch='tiny', runs=[(8, 224), (1, 224), (1, 512)], **ON_CPU)),
    runtimes=(runtimes, dict(arch='tiny', runs=[(8, 224), (1, 224)])),
    forms=(forms, dict(arch='tiny', batch=8, size=224, train=False, **ON_CPU)),
    neurons=(neurons, dict(arch='tiny', shares=[.4, .53], batch=8, size=224, **ON_CPU)),
    train=(train, dict(arch='tiny', batch=4, size=224, **ON_CPU)),
    scaling=(scaling, dict(batch=1, channels=64, kernel_size=51, kernel_sizes=[7, 13, 31, 51, 71, 101, 151], size=96,
                           resolutions=[32, 64, 128, 256], **ON_CPU)),
    gpu=(gpu, dict(minutes=4., arch='tiny', size=224, batch=128, train_batch=128, dtypes=['bf16', 'fp32'], op_batch=64, channels=384,
                   resolutions=[64, 32, 16, 128], kernel_size=51, device='cuda')),
    upkeep=(upkeep, dict(arch='tiny', batch=8, size=224)),
)


def measure(part: str, repeats: int = 9, threads: Optional[int] = None, **options) -> Result:
    """Measures one part; shows its progress.

    Args:
        part (str): One of :data:`PARTS`.
        repeats (int): Samples of each case. Defaults to 9.
        threads (int, optional): Of the CPU. Defaults to None: torch's number.
        **options: Those of the part; :data:`PARTS` has their defaults.

    Raises:
        InputError: There is no such part or option, or it needs a GPU and there is none.
    """
    if part not in PARTS:
        raise InputError(f'there is no benchmark {part!r}; choose from {", ".join(PARTS)}')
    function, defaults = PARTS[part]
    unknown = options.keys() - defaults.keys()
    if unknown:
        raise InputError(f'{part} has no options {", ".join(sorted(unknown))}; it has {", ".join(defaults)}')
    options = {**defaults, **options}
    if options.get('device') == 'cuda' and not torch.cuda.is_available():
        raise InputError(f'{part} on cuda needs an NVIDIA GPU and a torch built for it; torch {torch.__version__} finds none here')
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return function(SimpleNamespace(**options, repeats=repeats, threads=threads))


def machine(cuda: bool) -> dict:
    """What figures depend on: processor, torch and, if wanted, the GPU."""
    found = dict(platform=platform.platform(), cores=os.cpu_count(), instructions=torch.backends.cpu.get_cpu_capability(),
                 torch=torch.__version__)
    if cuda:
        found.update(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda, triton=version('triton'),
                     cudnn=torch.backends.cudnn.version(), tf32_convolutions=torch.backends.cudnn.allow_tf32)
    return found
