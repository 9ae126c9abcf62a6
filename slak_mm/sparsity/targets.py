"""What is to be masked, by granularity, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .schedule import plain
from .units import KINDS

GRANULARITIES = ('weight', *KINDS)


def check_share(argument: str, share, most: float) -> None:
    """Raises ValueError unless `share` is a number in [0, most]; 1 - 2**-53 is the largest one below 1."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= most:
        raise ValueError(f'{argument} must be in [0, 1{"]" if most == 1 else ")"}, got {share!r}')


def plain_target(argument: str, target) -> Any:
    """A sparsity, or targets by pattern, in Python's own types.

    Raises:
        ValueError: a share is not in [0, 1), or there is no pattern.
    """
    if not isinstance(target, Mapping):
        check_share(argument, plain(target), 1 - 2**-53)
        return plain(target)
    if not target:
        raise ValueError(f'{argument} must be a number or a dict of patterns of names to numbers, got {{}}')
    return {str(pattern): plain_target(f'{argument}[{pattern!r}]', share) for pattern, share in target.items()}


def plain_targets(granularity, sparsity) -> tuple[Any, dict[str, Any]]:
    """`granularity` in Python's own types, and the target of each granularity in it.

    Raises:
        ValueError: an unknown granularity, or what `plain_target` refuses.
    """
    named = granularity if isinstance(granularity, Mapping) else {str(granularity): sparsity}
    unknown = [name for name in named if name not in GRANULARITIES]
    if unknown or not named:
        raise ValueError(f'granularity={granularity!r} is unknown; it can be {", ".join(map(repr, GRANULARITIES))}, or a dict of some '
                         'of these to their sparsity')
    targets = {name: plain_target('sparsity' if named is not granularity else f'granularity[{name!r}]', target)
               for name, target in named.items()}
    return targets if named is granularity else granularity, targets
