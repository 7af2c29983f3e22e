"""Entries that the configurations of several formats have alike."""

import re
from collections.abc import Iterable

from jinfer.entries import Entries, shown
from jinfer.errors import UnsupportedModelError

SIDE = re.compile("[1-9][0-9]{0,8}")
REMEDY = "use another checkpoint of the model"

WHOLE = -1  # the group_size of one group for all input features


def read_group_size(entries: Entries, name: str, default: int | None) -> int | None:
    """The input features that share a scale; None where all of them do. Raises UnsupportedModelError."""
    given = entries.raw.get(name)
    if given == WHOLE and not isinstance(given, bool):
        return None
    return entries.integer(name, default)


def read_block(entries: Entries, name: str) -> tuple[int, int] | None:
    """The rows and columns of a block, as [128, 128] or "128x128"; None where there is none. Raises
    UnsupportedModelError."""
    if not entries.has(name):
        return None
    given = entries.raw[name]
    sides = given.split("x") if isinstance(given, str) else given
    is_pair = isinstance(sides, list | tuple) and len(sides) == 2
    if not is_pair or not all(SIDE.fullmatch(str(side)) for side in sides):
        entries.refuse(name, "it must be two sizes from 1 on")
    return int(sides[0]), int(sides[1])


def check_one_of(entries: Entries, name: str, value: object, known: Iterable[object]) -> None:
    """Raises UnsupportedModelError for the value of an entry that jinfer does not read."""
    known = list(known)
    if value not in known:
        raise UnsupportedModelError(
            f"{entries.name} has {name} {shown(value)}, of which jinfer reads "
            f"{', '.join(map(repr, known))}: {REMEDY}"
        )


def compiled(entries: Entries, pattern: str) -> re.Pattern[str]:
    """A regular expression of names. Raises UnsupportedModelError for what is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UnsupportedModelError(
            f"{entries.name} has {pattern!r}, which is no regular expression ({error}): {REMEDY}"
        ) from error
