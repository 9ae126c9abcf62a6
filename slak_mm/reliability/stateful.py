"""Which parts of a data set remember the samples that they have seen, so that a sample depends on those before it."""
import random
from collections import deque
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from torch import Tensor, nn

LARGEST = 1000  # elements of a list or an array that are looked at; lists of annotations are longer, and do not change
OTHERS = 'abc', 'torch', 'numpy', 'builtins', 'collections', 'mmengine.logging'  # whose objects are not looked into


def stateful_parts(dataset: Any) -> List[str]:
    """Draws a sample, another, and the first again with the same random numbers, and compares what data set and transforms hold.

    What is the same after the first sample and its repetition is no state: it was set anew. The generators of random numbers go on as
    if nothing had been drawn.

    Args:
        dataset: With ``__len__`` and ``__getitem__``; in wrappers or not.

    Returns:
        list[str]: The parts that remember, as ``'CachedMosaic (results_cache)'``. Empty too if a sample cannot be drawn.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    held = []
    try:
        for i in (0, 0, len(dataset) - 1, 0):  # the first fills what is filled once
            random.seed(i)
            np.random.seed(i % 2**32)
            torch.manual_seed(i)
            dataset[i]
            held.append({key: _brief(value) for part in _parts(dataset) for key, value in _attributes(part)})
    except Exception:  # whatever is wrong with a sample: the training says it, with the sample
        return []
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    changed: Dict[str, List[str]] = {}
    for key, value in held[-1].items():
        if key in held[1] and held[1][key] != value:
            changed.setdefault(key[1], []).append(key[2])
    return [f'{kind} ({", ".join(dict.fromkeys(names))})' for kind, names in changed.items()]


def stateful_preprocessor(preprocessor: nn.Module) -> List[str]:
    """The parts of a model's data preprocessor that are known to keep what they drew: mmdet's batches of random size."""
    return [kind for kind in (type(part).__name__ for part in preprocessor.modules()) if kind == 'BatchSyncRandomResize']


def _parts(root: Any) -> Iterator[Any]:
    seen, pending = set(), [root]
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, (dict, list, tuple, deque)):
            if len(part) <= LARGEST:
                pending += part.values() if isinstance(part, dict) else part
        elif part is root or hasattr(part, '__dict__') and not type(part).__module__.startswith(OTHERS):
            yield part
            pending += vars(part).values()


def _attributes(part: Any) -> Iterator[Tuple[Tuple[int, str, str], Any]]:
    return (((id(part), type(part).__name__, name), value) for name, value in vars(part).items())


def _brief(value: Any) -> Any:
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.RandomState):
        return str(value.get_state())
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, (Tensor, np.ndarray)):
        values = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        return values.shape, values.tobytes() if values.size <= LARGEST and values.dtype.kind in 'biuf' else None
    if isinstance(value, (list, tuple, dict, set, deque)):
        return len(value), [_brief(item) for item in value if isinstance(item, (int, float, str))] if len(value) <= LARGEST else None
    return value if isinstance(value, (int, float, str, bool, type(None))) else type(value)
