"""Axes of an array by name: their order, and which become one."""

import math
import re
from collections.abc import Sequence
from typing import Any

from jinfer.errors import CheckpointError, ConfigError

GROUP_OR_AXIS = re.compile(r"\(([^()]*)\)|([^\s()]+)")
NEW = "1"  # an axis that is not stored


def rearranged(array: Any, axes: str, name: str) -> Any:
    """An array whose axes are named and arranged anew: "a b c -> b (a c)" is [B, A * C].

    The axes are those of the array on the left, in its order; on the right each of them once, those in
    brackets as one, and 1 for a new one. `name` is that of the array in messages. Raises ConfigError for
    axes that cannot be read, and CheckpointError for an array that has another number of them.
    """
    stored, groups = _parsed(axes)
    if len(stored) != array.ndim:
        raise CheckpointError(
            f"{name} has shape {tuple(array.shape)}, and {axes!r} names {len(stored)} axes of it; correct "
            "the map"
        )
    order = [stored.index(axis) for group in groups for axis in group]
    sizes = [math.prod(array.shape[stored.index(axis)] for axis in group) for group in groups]
    return array.transpose(order).reshape(sizes)


def _parsed(axes: str) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The stored axes, and those of each new axis."""
    before, arrow, after = axes.partition("->")
    stored = before.split()
    groups = [(group or axis).split() for group, axis in GROUP_OR_AXIS.findall(after)]
    groups = [[] if group == [NEW] else group for group in groups]
    used = sorted(axis for group in groups for axis in group)
    if not arrow or not stored or len(set(stored)) < len(stored) or used != sorted(stored):
        raise ConfigError(
            f"axes {axes!r} cannot be read: they name each stored axis once, then ->, and the same axes in "
            "their new order, as in 'embed layer head dim -> layer embed (head dim)'"
        )
    return stored, groups
