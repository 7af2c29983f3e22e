"""The contract of what reads the calls in a region."""

from enum import Enum
from typing import Protocol

MAX_NAME_CHARACTERS = 256


class ReaderState(Enum):
    """READING: more of it may come. DONE: what comes next is none of it. REJECTED: it is no call; the text
    that belongs to none is `rejected`."""

    READING = "reading"
    DONE = "done"
    REJECTED = "rejected"


class CallSink(Protocol):
    """The place where calls go."""

    def start(self, name: str) -> None:
        """Begins a call."""

    def arguments(self, text: str) -> None:
        """More of the JSON text of the arguments of the call that began last."""


class CallReader(Protocol):
    """Reads the text of a region, in pieces of any size, and gives each call to a sink as early as it can.

    What was given stays: arguments are always the beginning of the final ones. So a call that begins well and
    goes on badly is a call with bad arguments.
    """

    state: ReaderState
    rejected: str

    @property
    def is_in_string(self) -> bool:
        """True while a marker would be part of a string that the model writes."""

    def push(self, text: str) -> int:
        """Reads some text; the number of characters that were read, fewer than all if the state changed."""

    def close(self, *, by_marker: bool) -> None:
        """The region ends: by a marker, or because the answer does. DONE or REJECTED after that."""


def is_name(text: object) -> bool:
    """True for what may be a function's name: one word of characters that can be encoded."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= MAX_NAME_CHARACTERS
        and text.isprintable()
        and " " not in text
    )
