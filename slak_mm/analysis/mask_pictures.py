"""The masks of a sparse training run, read from its checkpoints and made into pictures."""
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np

from ..checkpoints import CheckpointError, load_file
from ..errors import InputError
from ..sparsity.masks import unpack

NEVER, ONCE, ACTIVE, BACKGROUND = range(4)
PALETTE = np.array([(225, 225, 225), (245, 165, 90), (30, 75, 140), (255, 255, 255)], dtype=np.uint8)


@dataclass
class Snapshot:
    """The masks at one moment of a run.

    Attributes:
        path (Path, optional): The checkpoint; None of a run under way.
        step (int): Optimizer steps so far.
        layers (dict[str, np.ndarray]): For each maskable parameter an array of its shape, uint8: ``NEVER``, ``ONCE`` (was active
            and is no more) or ``ACTIVE``. A dense layer is all ``ACTIVE``.
    """
    path: Optional[Path]
    step: int
    layers: Dict[str, np.ndarray]


def read_snapshot(path: Path) -> Snapshot:
    """Reads the masks of one checkpoint; nothing in it is run.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: It cannot be read, or holds no masks.
    """
    state = load_file(str(path)).get('sparsity')
    if not isinstance(state, dict) or not {'steps', 'masks'} <= set(state):
        raise CheckpointError(f'{path} holds no masks: it was saved without SparsityHook.')
    return Snapshot(Path(path), state['steps'], read_masks(state))


def read_masks(state: dict) -> Dict[str, np.ndarray]:
    """The layers of a :class:`Snapshot`, from the state of :class:`slak_mm.sparsity.DynamicSparsity`."""
    layers = {}
    for name, entry in state['masks'].items():
        shape, bits = entry['shape'], entry['bits']
        if bits is None:
            layers[name] = np.full(shape, ACTIVE, np.uint8)
        else:
            active, ever = (unpack(part, shape).numpy() for part in bits)
            layers[name] = np.where(active, ACTIVE, np.where(ever, ONCE, NEVER)).astype(np.uint8)
    return layers


def read_run(paths: Sequence[Path]) -> List[Snapshot]:
    """Reads checkpoints, or those in a work-dir, in the order of training; of several at one step, which are equal, one.

    Args:
        paths (Sequence[Path]): One folder, or files. Files of the folder that hold no masks are passed over.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A file that holds no masks, a folder without any that does, or checkpoints of different models or runs.
    """
    snapshots = []
    for path in map(Path, paths):
        if not path.is_dir():
            snapshots.append(read_snapshot(path))
            continue
        faults = []
        for file in sorted(path.glob('*.pth')):
            try:
                snapshots.append(read_snapshot(file))
            except CheckpointError as error:
                faults.append(str(error))
        if not snapshots:
            raise CheckpointError(f'{path} has no checkpoint with masks. ' + (faults[0] if faults else 'It has no *.pth at all.'))
    snapshots.sort(key=lambda snapshot: snapshot.step)
    shapes = [{name: layer.shape for name, layer in snapshot.layers.items()} for snapshot in snapshots]
    for snapshot, shape in zip(snapshots, shapes):
        if shape != shapes[0]:
            raise CheckpointError(f'{snapshot.path} and {snapshots[0].path} hold masks of different models.')
    by_step: Dict[int, Snapshot] = {}
    for snapshot in snapshots:
        other = by_step.setdefault(snapshot.step, snapshot)
        if any((layer != other.layers[name]).any() for name, layer in snapshot.layers.items()):
            raise CheckpointError(f'{snapshot.path} and {other.path} hold different masks of step {snapshot.step}: give the '
                                  'checkpoints of one run.')
    return [*by_step.values()]


def is_depthwise(layer: np.ndarray) -> bool:
    """Whether it is the mask of a depthwise kernel of more than one tap."""
    return layer.ndim == 4 and layer.shape[1] == 1 and layer[0].size > 1


def select_layers(snapshot: Snapshot, wanted: Sequence[str] = ()) -> List[str]:
    """Names of the depthwise layers that contain one of ``wanted``; by default those of the first block that is not dense.

    Raises:
        InputError: Nothing matches; the message lists some that are there.
    """
    depthwise = [name for name, layer in snapshot.layers.items() if is_depthwise(layer)]
    if wanted:
        unknown = [part for part in wanted if not any(part in name for name in depthwise)]
        if unknown or not depthwise:
            some = ', '.join(depthwise[:4]) + (' ...' if len(depthwise) > 4 else '') if depthwise else 'none'
            raise InputError(f'no depthwise layer with a mask matches {", ".join(unknown)}; there are: {some}')
        return [name for name in depthwise if any(part in name for part in wanted)]
    sparse = [name for name in depthwise if (snapshot.layers[name] != ACTIVE).any()]
    if not sparse:
        raise InputError('no depthwise layer of these checkpoints is sparse')
    block = sparse[0].rpartition('large_kernel')[0] or sparse[0]
    return [name for name in sparse if name.startswith(block)]


def canvas(rows: Sequence[Sequence[np.ndarray]], gap: int = 2) -> np.ndarray:
    """Pictures in a grid, ``gap`` pixels of ``BACKGROUND`` around each; one smaller than its row or column is centred in its cell.

    Args:
        rows (Sequence[Sequence[np.ndarray]]): Equally long rows of pictures (h, w), uint8.
        gap (int): In pixels. Defaults to 2.

    Returns:
        np.ndarray: (H, W), uint8.
    """
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    widths = [max(cell.shape[1] for cell in column) for column in zip(*rows)]
    lines = [np.concatenate([_centred(cell, height + 2 * gap, width + 2 * gap) for cell, width in zip(row, widths)], axis=1)
             for row, height in zip(rows, heights)]
    return np.concatenate(lines)


def _centred(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    cell = np.full((height, width), BACKGROUND, np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    cell[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    return cell


def kernel_rows(snapshots: Sequence[Snapshot], names: Sequence[str], kernels: int) -> Dict[str, List[np.ndarray]]:
    """The first ``kernels`` kernels of each layer, by a short name: one picture (kh, kw) for each snapshot."""
    return {f'{short_name(name)} [{i}]': [snapshot.layers[name][i, 0] for snapshot in snapshots]
            for name in names for i in range(min(kernels, len(snapshots[0].layers[name])))}


def short_name(name: str) -> str:
    """A parameter's name without what they all have in common."""
    for ending in ('.weight', '.conv'):
        name = name[:-len(ending)] if name.endswith(ending) else name
    return name[len('backbone.'):] if name.startswith('backbone.') else name


def shares(snapshot: Snapshot) -> Dict[str, Dict[str, float]]:
    """For each layer, and for all under 'total': ``weights``, ``density`` and ``ever_active``, shares of the weights."""
    counts = {name: np.bincount(layer.ravel(), minlength=3)[:3] for name, layer in snapshot.layers.items()}
    counts['total'] = np.sum(list(counts.values()), axis=0)
    return {name: dict(weights=int(count.sum()), density=float(count[ACTIVE] / count.sum()),
                       ever_active=float((count[ACTIVE] + count[ONCE]) / count.sum())) for name, count in counts.items()}
