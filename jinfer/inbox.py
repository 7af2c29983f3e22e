"""Where updates wait for whoever asked for them."""

from collections import deque
from collections.abc import Iterable, Iterator

from jinfer.request import Request
from jinfer.sequence_update import SequenceUpdate


class Inbox:
    """What steps brought to the requests of one caller, until it is taken: a step may be taken for another's sake."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._updates: deque[SequenceUpdate] = deque()
        self._open = {sequence for request in requests for sequence in request.sequences}  # whose end was not put yet

    @property
    def is_complete(self) -> bool:
        """Whether the end of every sequence was put here."""
        return not self._open

    def put(self, update: SequenceUpdate) -> None:
        self._updates.append(update)
        if update.finish_reason is not None:
            self._open.discard(update.sequence)

    def put_ends(self) -> None:
        """After a fault: a last update for each sequence that ended without one."""
        for sequence in sorted(self._open, key=lambda sequence: (sequence.arrival or 0, sequence.index)):
            if sequence.is_finished:
                self.put(SequenceUpdate(sequence, None, "", sequence.finish_reason))

    def take_all(self) -> Iterator[SequenceUpdate]:
        while self._updates:
            yield self._updates.popleft()
