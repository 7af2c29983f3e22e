"""Output queues that a task of an event loop takes from, while another thread puts."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable

from jinfer.engine.output_queue import OutputQueue
from jinfer.requests.request import Request, SequenceOutput


class Waker:
    """Sets events of an event loop from another thread: all waiting events with one call into the loop."""

    def __init__(self, event_loop: asyncio.AbstractEventLoop) -> None:
        self.event_loop = event_loop
        self._waiting: deque[asyncio.Event] = deque()
        self._is_scheduled = False

    def wake(self, event: asyncio.Event) -> None:
        """Sets the event soon. A closed loop has no task to wake."""
        self._waiting.append(event)
        if not self._is_scheduled:
            self._is_scheduled = True
            with contextlib.suppress(RuntimeError):
                self.event_loop.call_soon_threadsafe(self._set_all)

    def _set_all(self) -> None:
        # First, so that an event that is added meanwhile is set as well, or scheduled.
        self._is_scheduled = False
        while self._waiting:
            self._waiting.popleft().set()


class AsyncOutputQueue(OutputQueue):
    """An OutputQueue that one task waits for."""

    def __init__(self, requests: Iterable[Request], waker: Waker, *, deadline: float | None) -> None:
        super().__init__(requests, deadline=deadline)
        self._waker = waker
        self._changed = asyncio.Event()

    def put(self, output: SequenceOutput) -> None:
        super().put(output)
        self._waker.wake(self._changed)

    def fail(self, reason: str) -> None:
        super().fail(reason)
        self._waker.wake(self._changed)

    async def take(self) -> list[SequenceOutput]:
        """Waits for at least one output; none means the end. Raises EngineError if the queue failed."""
        while True:
            self._changed.clear()
            is_over = self.is_over  # before the outputs are taken, or the last one could be missed
            outputs = list(self.take_all())
            if outputs:
                return outputs
            if is_over:
                self.raise_failure()
                return []
            await self._changed.wait()
