"""What takes the maps of a backbone, a neck or heads: all have to be told the number of maps and their channels."""
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from .build import kept_modes
from .slak import SLaK

SIZES = 64, 256  # pixels of the images whose maps are tried: what does not take small ones may take larger ones
# the stages that are meant, by the number of maps
STAGES = {1: (3, ), 2: (2, 3), 3: (1, 2, 3), 4: (0, 1, 2, 3)}
REFUSED = (AssertionError, IndexError, RuntimeError, ValueError)


def require_fit(model: nn.Module) -> None:
    """Raises an InputError about the first of :func:`misfits`."""
    for text in misfits(model):
        raise InputError(text)


def misfits(model: nn.Module) -> Iterator[str]:
    """Whether neck and heads take what a SLaK gives, and heads what the neck gives: each is tried, on zeros.

    What takes them is fine, in whatever way it does, and what cannot be tried alone is left alone: parts that are sharded over
    processes, or that want more than maps.

    Args:
        model (nn.Module): Of any OpenMMLab library. Its weights, statistics and mode stay as they are.

    Yields:
        str: About each part that cannot take the maps, with what to set.
    """
    for name, owner in model.named_modules():
        backbone = getattr(owner, 'backbone', None)
        if isinstance(backbone, SLaK):
            where = f'model.{name}.' if name else 'model.'
            for part, reader, source, remedy in _misfits(owner, backbone):
                yield f'{where}{part} ({type(reader).__name__}) takes {_taken(reader)}; {where}{source}. {remedy}'


def _misfits(owner: nn.Module, backbone: SLaK) -> Iterator[Tuple[str, nn.Module, str, str]]:
    neck = getattr(owner, 'neck', None)
    if neck is None:
        for part, head in _heads(owner):
            remedy = _remedy(backbone, head, part)
            if remedy:
                yield part, head, _given(backbone), remedy
        return
    part, first = ('neck.0', neck[0]) if isinstance(neck, nn.Sequential) else ('neck', neck)  # of several, one reads the backbone
    remedy = _remedy(backbone, first, part)
    if remedy:
        yield part, first, _given(backbone), remedy
        return
    _, maps = _try(neck, {stage: backbone.channels[stage] for stage in backbone.out_indices}, backbone.gap_before_final_norm)
    if not isinstance(maps, (list, tuple)) or not all(isinstance(one, Tensor) and one.ndim > 1 for one in maps):
        return
    given = [one.shape[1] for one in maps]
    for part, head in _heads(owner):
        channels = [given[place] for place in _read(head, tuple(range(len(maps))))]
        if _wanted(head) not in (None, channels) and not _run(head, maps)[0]:
            yield part, head, f'neck gives maps of {_plain(given)} channels', f'S{_set_channels(head, channels, part)[1:]}.'


def _heads(owner: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Those that say which channels they take, and what Mask2Former's have inside."""
    for name, child in owner.named_children():
        several = isinstance(child, nn.ModuleList)
        heads: Any = child.named_children() if several else [('', child)]
        for number, head in heads if 'head' in name else ():
            part = f'{name}.{number}' if several else name
            if hasattr(head, 'in_channels'):
                yield part, head
            if hasattr(head, 'pixel_decoder'):
                yield f'{part}.pixel_decoder', head.pixel_decoder


def _remedy(backbone: SLaK, reader: Any, part: str) -> str:
    """What to set, if the part cannot take what the backbone gives; '' if it can, or if nothing is known."""
    wanted, given, pooled = _wanted(reader), backbone.out_indices, backbone.gap_before_final_norm
    stages = _stages(reader, given)
    read = _read(reader, stages)
    channels = [backbone.channels[stage] for stage in read]

    def takes(stages: Sequence[int], pooled: bool, own: Sequence[int] = ()) -> bool:
        """With ``own`` channels of the stages that are read."""
        widths = {**{stage: backbone.channels[stage] for stage in stages}, **dict(zip(read, own))}
        return _try(reader, widths, pooled)[0]

    if takes(given, pooled):
        return ''
    forms, otherwise = (pooled, not pooled), pooled and part == 'head'  # vectors are for that of a classifier
    steps, settings = [], []
    if _index(reader) is not None:  # mmseg's heads take maps
        form = False
    elif wanted is None:
        fitting = ((stages, form) for stages in (given, *STAGES.values()) for form in forms if takes(stages, form))
        stages, form = next(fitting, (given, otherwise))
        if not takes(stages, form):
            steps.append(f'set in_channels of the {part.split(".")[0]}, and out_indices of the backbone, so that they fit '
                         f'(the stages have {backbone.channels} channels)')
    else:
        form = next((form for form in forms if takes(stages, form, wanted)), otherwise)
        if takes(stages, form, wanted[::-1]) and not takes(stages, form, wanted):  # YOLOv3's neck has the last map first
            channels = channels[::-1]
    if form != pooled:
        settings.append(f'gap_before_final_norm={form}')
    if stages != given:
        settings.append(f'out_indices={stages}')
    if settings:
        steps.append(f'set {" and ".join(settings)} in the backbone')
    if settings and not any(True for _ in reader.parameters()):  # it pools, too
        steps.append('or leave out the neck')
    if wanted not in (None, channels) and wanted != [sum(channels)]:
        steps.append(_set_channels(reader, channels, part))
    return f'S{", ".join(steps)[1:]}.' if steps else ''


def _set_channels(reader: Any, channels: List[int], part: str) -> str:
    several = isinstance(reader.in_channels, (list, tuple)) or len(channels) > 1
    return f'set in_channels={channels if several else channels[0]} in the {part.split(".")[0]}'


def _wanted(reader: Any) -> Optional[List[int]]:
    """The channels of each map that a part takes; None if it does not say."""
    wanted = getattr(reader, 'in_channels', None)
    if isinstance(wanted, (list, tuple)):
        return list(wanted)
    return [wanted] if isinstance(wanted, int) else None  # mmseg's heads that concatenate maps have the sum


def _index(reader: Any) -> Optional[Sequence[int]]:
    """The places of the maps that a head of mmseg chooses."""
    index = getattr(reader, 'in_index', None)
    return (index, ) if isinstance(index, int) else index


def _stages(reader: Any, given: Tuple[int, ...]) -> Tuple[int, ...]:
    """The stages whose maps the backbone should give: those that it gives, if their number is right."""
    index, wanted = _index(reader), _wanted(reader)
    if index is not None:
        return given if all(-len(given) <= i < len(given) for i in index) else STAGES[4]
    if wanted is None or isinstance(reader.in_channels, int) or len(wanted) == len(given):
        return given
    return STAGES.get(len(wanted), given)


def _read(reader: Any, stages: Tuple[int, ...]) -> List[int]:
    """Of the maps that are given the ones that a part takes: the chosen ones, the last if it takes one, else all."""
    index = _index(reader)
    if index is not None:
        return [stages[i] for i in index if -len(stages) <= i < len(stages)]
    return [stages[-1]] if isinstance(getattr(reader, 'in_channels', None), int) else list(stages)


def _try(reader: nn.Module, channels: Dict[int, int], pooled: bool) -> Tuple[bool, Any]:
    """Whether a part takes the maps of an image, or vectors, and what it gives.

    Args:
        reader (nn.Module): The part.
        channels (dict[int, int]): Of each stage that is given.
        pooled (bool): Whether they are vectors.
    """
    like = next(reader.parameters(), torch.empty(0))
    for size in SIZES:
        maps = tuple(torch.zeros(1, width, *[] if pooled else 2 * [size >> stage + 2], dtype=like.dtype, device=like.device)
                     for stage, width in sorted(channels.items()))
        takes, given = _run(reader, maps)
        if takes:
            return True, given
    return False, None


def _run(reader: nn.Module, maps: Sequence[Tensor]) -> Tuple[bool, Any]:
    """Whether a part takes maps, and what it gives: nothing, if it cannot be tried, as what is sharded or wants more than maps."""
    if any(not p.numel() or hasattr(p, 'device_mesh') for p in reader.parameters()):
        return True, None
    try:
        with kept_modes(reader), torch.no_grad():
            reader.eval()
            return True, reader(tuple(maps))
    except NotImplementedError:  # a RuntimeError
        return True, None
    except REFUSED:
        return False, None
    except Exception:  # of any code, mostly that it takes more arguments
        return True, None


def _plain(channels: List[int]) -> Any:
    return channels[0] if len(channels) == 1 else channels


def _taken(reader: Any) -> str:
    wanted, index = _wanted(reader), getattr(reader, 'in_index', None)
    said = 'maps' if wanted is None else f'{_plain(wanted)} channels'
    return said if index is None else f'{said} (in_index={index})'


def _given(backbone: SLaK) -> str:
    pooled = ', gap_before_final_norm=True' if backbone.gap_before_final_norm else ''
    channels = _plain([backbone.channels[stage] for stage in backbone.out_indices])
    return f'backbone gives {"vectors" if pooled else "maps"} of {channels} channels (out_indices={backbone.out_indices}{pooled})'
