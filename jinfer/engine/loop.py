"""The loop around an engine: who steps it, and what becomes of all that arrives in the meantime.

There is no thread of its own. A caller that waits for tokens steps the engine, for all callers, and finds what concerns
it in its queue. Between them stands one lock, and one queue of commands:

    submit, abandon, close   ->   commands   ->   applied by whoever holds the lock, before and after a step

Giving a command takes no lock and changes nothing but the queue of commands. So it may be done at any moment: by
another thread, and by the garbage collector or a signal handler in the very thread that is in the middle of a step.

An interrupt may fall on every line, too. Whoever holds the lock therefore marks the engine as in use, and unmarks it
when all is done. A holder that was stopped between the two has left the engine in an unknown state, even if it was
stopped while it cleaned up: the next holder finds the mark, ends what was running, and begins with an empty engine.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from jinfer.engine.engine import Engine
from jinfer.engine.output_queue import OutputQueue
from jinfer.errors import EngineError
from jinfer.requests.request import Request

CLOSED = "this LLM is closed; create another"
INTERRUPTED = "another call was interrupted within a step, which ended every request; send this one again"
INSIDE_A_STEP = (
    "this thread is in the middle of a step of this engine, which a finalizer or a signal handler cannot wait for; "
    "let the handler set a flag, and use the LLM after the call that it interrupted"
)


class EngineLoop:
    """Steps an engine for any number of callers, in any number of threads."""

    def __init__(self, engine: Engine, give_back: Callable[[], None]) -> None:
        """`give_back` is called when the engine was closed, perhaps more than once. It must not refer to the loop."""
        self._engine = engine
        self._give_back = give_back
        self._lock = threading.RLock()  # not to enter twice: it knows whether this thread has it
        self._threads_inside: set[int] = set()  # that have the lock, or wait for it
        self._commands: deque[tuple[Command, OutputQueue | None]] = deque()
        self._queues: dict[Request, OutputQueue] = {}  # of requests that were accepted, until their queue is over
        self._is_in_use = False
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def check_open(self) -> None:
        """Raises EngineError if the loop was closed."""
        if self._is_closed:
            raise EngineError(CLOSED)

    def submit(self, queue: OutputQueue) -> None:
        """Hands all requests of a queue over, at once. They are accepted before the next step."""
        self._commands.append((EngineLoop._accept, queue))

    def abandon(self, queue: OutputQueue) -> None:
        """Aborts what still runs for a queue that nobody takes from any more, before the next step. May be repeated."""
        if not queue.is_over:
            self._commands.append((EngineLoop._abort, queue))

    def close(self) -> None:
        """Fails what still runs and gives the engine's memory back: now, or at the end of the step around this call."""
        self._is_closed = True
        self._commands.append((EngineLoop._shut, None))
        if threading.get_ident() not in self._threads_inside:
            self._hold(_nothing)

    def settle(self) -> None:
        """Applies the commands that were given, unless a thread is in the middle of a step, whose end does it."""
        if not self._threads_inside:
            self._hold(_nothing)

    def run_once(self, queue: OutputQueue) -> None:
        """One step for all callers, unless `queue` is over by the time that it is this thread's turn.

        Raises EngineError if the engine fails, or is in the middle of a step in this thread.
        """
        if threading.get_ident() in self._threads_inside:
            raise EngineError(INSIDE_A_STEP)
        self._hold(lambda: _nothing() if queue.is_over else self._step())

    def _hold(self, work: Callable[[], None]) -> None:
        """Does something that nobody else does at the same time, with all commands applied before and after it."""
        try:
            try:
                self._threads_inside.add(threading.get_ident())
                self._lock.acquire()
                self._do(work)
            finally:
                self._leave()
        finally:
            self._leave()  # an interrupt may have kept the first from it

    def _leave(self) -> None:
        """Gives the lock back, if this thread has it: an interrupt may have come before it was taken, or after."""
        with contextlib.suppress(RuntimeError):
            while True:
                self._lock.release()
        self._threads_inside.discard(threading.get_ident())

    def _do(self, work: Callable[[], None]) -> None:
        try:
            if self._is_in_use:
                self._begin_anew(INTERRUPTED)
            self._is_in_use = True
            self._apply_commands()
            work()
            self._apply_commands()
            self._is_in_use = False
        except Exception as error:
            reason = f"the engine failed, and every request with it: {error}"
            self._begin_anew(reason)
            raise EngineError(reason) from error
        except BaseException:
            self._begin_anew(INTERRUPTED)
            raise

    def _step(self) -> None:
        for update in self._engine.step():
            queue = self._queues.get(update.sequence.request)
            if queue is not None:  # or it was abandoned
                queue.put(update)
                if queue.is_complete:
                    self._forget(queue)

    def _apply_commands(self) -> None:
        """In their order. A command is taken off when it was applied: one that is interrupted is applied again."""
        while self._commands:
            command, queue = self._commands[0]
            command(self, queue)
            self._commands.popleft()

    def _accept(self, queue: OutputQueue) -> None:
        if self._is_closed:
            queue.fail(CLOSED)
        if queue.is_over:
            return
        self._queues |= dict.fromkeys(queue.requests, queue)
        for request in queue.requests:
            self._engine.add(request)

    def _abort(self, queue: OutputQueue) -> None:
        self._forget(queue)
        for request in queue.requests:
            self._engine.abort(request)

    def _forget(self, queue: OutputQueue) -> None:
        for request in queue.requests:
            self._queues.pop(request, None)

    def _begin_anew(self, reason: str) -> None:
        """Ends everything that was accepted. It may be interrupted, and done again from its beginning."""
        self._fail_all(reason)
        try:
            if not self._is_closed:
                self._engine.reset(reason)
        except Exception as error:
            raise EngineError(
                f"{reason}; nor could it begin anew ({error}); close this LLM and create another"
            ) from error
        self._is_in_use = False

    def _fail_all(self, reason: str) -> None:
        for queue in tuple(self._queues.values()):
            queue.fail(reason)
        self._queues.clear()

    def _shut(self, _: None) -> None:
        self._fail_all(CLOSED)
        self._engine.close()
        self._give_back()


def _nothing() -> None:
    """For who holds the lock only to have the commands applied."""


Command = Callable[[EngineLoop, Any], None]
"""What is done to a loop and to one of its queues."""
