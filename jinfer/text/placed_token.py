"""The place of a token in the text of an output."""

from typing import NamedTuple


class PlacedToken(NamedTuple):
    """A token and its text: from character `start` to `end`, equal where the text is left out."""

    token_id: int
    start: int
    end: int
