"""What a study consists of: runs, each a config of this project with changes, and the sizes of the models that it compares."""
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from torch import nn

from ...models import SLaK
from ...sparsity import maskable

KERNEL_SIZES = {51: (51, 49, 47, 13), 31: (31, 29, 27, 13), 7: (7, 7, 7, 7)}
DEPTHS = (1, 1, 2, 1)
STEP = 1 / 128  # of the width that is searched for


class Trained(NamedTuple):
    """Stands, in the changes of a run, for the checkpoint that another run leaves."""
    study: str
    variant: str
    seed: int


class Run(NamedTuple):
    """One training, and the test at its end.

    Args:
        study (str): Name of the study.
        variant (str): What is compared.
        seed (int): Of the weights, the data's order and the masks; runs of equal seed are compared with each other.
        config (str): Path of the config, from ``configs/`` on.
        changes (dict): What differs from the config. A :class:`Trained` in it becomes the path of a checkpoint.
        metric (str): The metric that counts, by its name in the log.
        classifies (bool): Whether its predictions are classes, of which it is kept which are right. Defaults to False.
    """
    study: str
    variant: str
    seed: int
    config: str
    changes: Dict[str, Any]
    metric: str
    classifies: bool = False

    @property
    def key(self) -> Tuple[str, str, int]:
        """What tells one run of a study from the others."""
        return self.study, self.variant, self.seed

    @property
    def needs(self) -> List[Trained]:
        """The runs whose checkpoints this one starts from."""
        found: List[Trained] = []

        def note(run: Trained) -> str:
            found.append(run)
            return ''

        _replace(self.changes, note)
        return found

    @property
    def settings(self) -> str:
        """A fingerprint of what settles the numbers, but for where data and checkpoints are."""
        changes = {name: value for name, value in self.changes.items() if not name.endswith('_dataloader')}
        return hashlib.sha256(json.dumps([self.config, changes], sort_keys=True).encode()).hexdigest()[:12]

    def write(self, path: Path, configs: Path, find: Callable[[Trained], str]) -> None:
        """Writes the config of this run, which ``tools/train.py`` and ``tools/test.py`` take; it is tested once, after training.

        Args:
            path (Path): File to write.
            configs (Path): The folder ``configs/``.
            find (Callable): From a run to the path of its checkpoint.
        """
        lines = [f'# {self.study}: {self.variant}, seed {self.seed}', f'_base_ = {str(configs / self.config)!r}',
                 *(f'{name} = {value!r}' for name, value in _replace(self.changes, find).items()),
                 'val_cfg = val_dataloader = val_evaluator = None']
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def _replace(value: Any, find: Callable[[Trained], str]) -> Any:
    """A copy of a config's value with ``find`` of each :class:`Trained` in its place."""
    if isinstance(value, Trained):
        return find(value)
    if isinstance(value, dict):
        return {key: _replace(each, find) for key, each in value.items()}
    return type(value)(_replace(each, find) for each in value) if isinstance(value, (list, tuple)) else value


class Size(NamedTuple):
    """Number of parameters of a classifier, of those that may be masked, and of those of the MLPs' hidden units."""
    total: int
    maskable: int
    neurons: int


def widths(channels: Sequence[int], factor: float) -> Tuple[int, ...]:
    """Channels of the stages at a width factor."""
    return tuple(int(channel * factor) for channel in channels)


@lru_cache(maxsize=None)
def classifier_size(channels: Tuple[int, ...], kernel: int, num_classes: int) -> Size:
    """Counts the parameters of a SLaK and a linear head.

    Args:
        channels (tuple[int]): Of the four stages.
        kernel (int): 51, 31 or 7: the kernels of the paper that start with it.
        num_classes (int): Of the head.
    """
    model = nn.Sequential(
        SLaK(arch=dict(depths=DEPTHS, channels=channels), kernel_sizes=KERNEL_SIZES[kernel], width_factor=1.,
             norm_cfg=dict(type='BN')), nn.Linear(channels[-1], num_classes))
    neurons = sum(p.numel() for name, p in model.named_parameters() if 'pwconv' in name and not name.endswith('pwconv2.bias'))
    return Size(sum(p.numel() for p in model.parameters()), sum(p.numel() for p in maskable(model).values()), neurons)


def sparsity_for(nonzero: int, size: Size) -> float:
    """The share of masked weights that leaves ``nonzero`` parameters."""
    return (size.total - nonzero) / size.maskable


def width_for(nonzero: int, channels: Sequence[int], kernel: int, num_classes: int) -> float:
    """The largest width factor, in steps of 1/128, at which a dense model has at most ``nonzero`` parameters."""
    factor = 1.
    while classifier_size(widths(channels, factor), kernel, num_classes).total > nonzero:
        factor -= STEP
    return factor
