"""Where the text of a request waits for whoever asked for it."""

from collections import deque
from collections.abc import Iterator

from jinfer.engine import SequenceUpdate
from jinfer.outputs import StreamPiece
from jinfer.request import Request


class Inbox:
    """What steps brought to one request, until the caller takes it: a step may be taken for somebody else's sake."""

    def __init__(self, prompt_index: int) -> None:
        self._prompt_index = prompt_index
        self._pieces: deque[StreamPiece] = deque()
        self._ended: set[int] = set()  # whose last piece was put

    def put(self, update: SequenceUpdate) -> None:
        """To be called before the next step: the piece says whether the sequence ended with it."""
        sequence = update.sequence
        if sequence.is_finished:
            self._ended.add(sequence.index)
        self._pieces.append(
            StreamPiece(
                self._prompt_index,
                sequence.index,
                update.text,
                update.token_ids,
                sequence.finish_reason,
                sequence.error,
            )
        )

    def take_all(self) -> Iterator[StreamPiece]:
        while self._pieces:
            yield self._pieces.popleft()

    def ends_not_told(self, request: Request) -> Iterator[StreamPiece]:
        """A last piece for each sequence that ended without one, by a fault in a step that another caller took."""
        for sequence in request.sequences:
            if sequence.index not in self._ended:
                self.put(SequenceUpdate(sequence, "", ()))
        yield from self.take_all()
