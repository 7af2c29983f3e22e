"""Sequences that wait for more than their turn: for programs to be compiled, or for a grammar."""

import time
from collections.abc import Sequence as Items
from concurrent.futures import Future
from typing import NamedTuple

from jinfer.errors import EngineError, JinferError
from jinfer.requests.request import Sequence

WAIT_S = 0.002
"""An engine that has nothing else to do looks again after so long."""


class Admissible(NamedTuple):
    """A sequence that may be scheduled, or the reason why it must fail."""

    sequence: Sequence
    error: JinferError | None


class WaitingRoom:
    """Keeps sequences until all that they need is there, in the order in which they came."""

    def __init__(self) -> None:
        self._needs: dict[Sequence, Items[Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._needs)

    def add(self, sequence: Sequence, needs: Items[Future[None]]) -> None:
        """Keeps a sequence until its needs are done and its masker is ready."""
        self._needs[sequence] = needs

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence, if it is here."""
        self._needs.pop(sequence, None)

    def take_ready(self) -> list[Admissible]:
        """Takes out the sequences that wait for nothing any more."""
        found = [
            Admissible(sequence, _error(sequence, needs))
            for sequence, needs in self._needs.items()
            if _waits_for_nothing(sequence, needs)
        ]
        for ready in found:
            del self._needs[ready.sequence]
        return found

    def wait(self) -> None:
        """Lets the threads work that somebody here waits for."""
        time.sleep(WAIT_S)

    def clear(self) -> None:
        """Forgets all."""
        self._needs.clear()


def _waits_for_nothing(sequence: Sequence, needs: Items[Future[None]]) -> bool:
    masker = sequence.masker
    if masker is not None and not masker.is_ready:
        return False
    is_refused = masker is not None and masker.error is not None  # so that it has no use for its needs
    return is_refused or all(need.done() for need in needs)


def _error(sequence: Sequence, needs: Items[Future[None]]) -> JinferError | None:
    if sequence.masker is not None and sequence.masker.error is not None:
        return sequence.masker.error
    errors = [error for need in needs if (error := need.exception()) is not None]
    return EngineError(f"what the request needs could not be compiled: {errors[0]}") if errors else None
