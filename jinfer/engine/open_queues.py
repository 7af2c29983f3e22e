"""The output queues of the requests that an engine has accepted."""

import time
from collections.abc import Iterable

from jinfer.engine.engine import Engine
from jinfer.engine.output_queue import OutputQueue
from jinfer.requests.request import FinishReason, Request, Sequence, SequenceOutput


class OpenQueues:
    """The queues that are not over, and the deadlines of those that have one.

    One thread at a time may call, the one that steps the engine. An interrupt may fall on every line:
    `fail_all`, and with it a reset of the engine, repairs what it leaves.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queues: dict[Request, OutputQueue] = {}  # until the queue is over
        self._deadlines: dict[OutputQueue, float] = {}  # of those of them that have one

    @property
    def has_any(self) -> bool:
        return bool(self._queues)

    def accept(self, queue: OutputQueue) -> None:
        """Adds all requests of a queue to the engine."""
        self._queues |= dict.fromkeys(queue.requests, queue)
        if queue.deadline is not None:
            self._deadlines[queue] = queue.deadline
        for request in queue.requests:
            self._engine.add(request)

    def abandon(self, queue: OutputQueue) -> None:
        """Aborts the requests of a queue that has no taker any more."""
        self._forget(queue)
        for request in queue.requests:
            self._engine.abort(request.sequences)

    def abort(self, request_id: str) -> None:
        """Aborts a request, unless it has ended."""
        for request, queue in self._queues.items():
            if request.request_id == request_id:
                self._end(request.sequences, queue)
                return

    def abort_sequence(self, sequence: Sequence) -> None:
        """Aborts one sequence of a request, unless it has ended."""
        queue = self._queues.get(sequence.request)
        if queue is not None:
            self._end([sequence], queue)

    def end_late(self) -> None:
        """Aborts the requests whose deadline has passed."""
        if not self._deadlines:
            return
        now = time.monotonic()
        for queue in [queue for queue, deadline in self._deadlines.items() if deadline <= now]:
            for request in queue.requests:
                self._end(request.sequences, queue)

    def deliver(self, outputs: Iterable[SequenceOutput]) -> None:
        """Puts each output into the queue of its request."""
        for output in outputs:
            queue = self._queues.get(output.sequence.request)
            if queue is not None:  # or it was abandoned
                queue.put(output)
                if queue.is_complete:
                    self._forget(queue)

    def fail_all(self, reason: str) -> None:
        """Ends all queues early. May be interrupted, and repeated."""
        for queue in tuple(self._queues.values()):
            queue.fail(reason)
        self._queues.clear()
        self._deadlines.clear()

    def _end(self, sequences: list[Sequence], queue: OutputQueue) -> None:
        self._engine.abort(sequences)
        open_sequences = [sequence for sequence in sequences if queue.awaits(sequence)]
        self.deliver(
            SequenceOutput(sequence=sequence, token_id=None, text=None, finish_reason=FinishReason.ABORT)
            for sequence in open_sequences
        )

    def _forget(self, queue: OutputQueue) -> None:
        self._deadlines.pop(queue, None)
        for request in queue.requests:
            self._queues.pop(request, None)
