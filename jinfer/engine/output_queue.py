"""The queue of a caller, in which the outputs of steps wait."""

from collections import deque
from collections.abc import Iterable, Iterator

from jinfer.errors import EngineError
from jinfer.requests.request import Request, Sequence, SequenceOutput


class OutputQueue:
    """The outputs of one caller's requests, until the caller takes them. Any thread may have run the steps.

    One thread at a time puts, and one takes; they need no lock between them.
    """

    def __init__(self, requests: Iterable[Request], *, deadline: float | None = None) -> None:
        """Requests unfinished at `deadline`, by `time.monotonic()`, are aborted before the next step."""
        self.deadline = deadline
        self.requests = tuple(requests)
        self._outputs: deque[SequenceOutput] = deque()
        # Without their end here.
        self._open = {sequence for request in self.requests for sequence in request.sequences}
        self._failure: str | None = None

    @property
    def is_complete(self) -> bool:
        """True once the end of every sequence was put here."""
        return not self._open

    @property
    def is_over(self) -> bool:
        """True once nothing is put here any more."""
        return self.is_complete or self._failure is not None

    @property
    def num_untaken(self) -> int:
        """Outputs that wait here to be taken."""
        return len(self._outputs)

    def awaits(self, sequence: Sequence) -> bool:
        """True until the end of the sequence is put here."""
        return sequence in self._open

    def put(self, output: SequenceOutput) -> None:
        self._outputs.append(output)
        if output.finish_reason is not None:
            self._open.discard(output.sequence)

    def fail(self, reason: str) -> None:
        """Ends the queue early, unless it is complete: what it holds is not the whole."""
        if not self.is_complete:
            self._failure = reason

    def drop_sequences(self) -> None:
        """Takes the sequences off their requests, for an owner who needs them there no more.

        A request and its sequences refer to each other: without this, only a garbage collection frees them.
        """
        for request in self.requests:
            request.sequences.clear()

    def take_all(self) -> Iterator[SequenceOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def raise_failure(self) -> None:
        """Raises EngineError if the queue failed."""
        if self._failure is not None:
            raise EngineError(self._failure)
