"""The loop around an engine: it steps the engine, and queues all that arrives in the meantime.

A caller that waits for tokens steps the engine, for all callers, and finds what concerns it in its queue
(`run_once`); or a thread of the loop's own does it for all of them (`start`). Between them stand one lock and
one queue of commands:

    submit, abandon, abort, close  ->  commands  ->  applied by the lock's holder, before and after a step

Giving a command takes no lock and changes nothing but the queue of commands. So it may be done at any moment:
by another thread, and by the garbage collector or a signal handler in the very thread that is in the middle
of a step.

An interrupt may fall on every line, too. The holder of the lock therefore marks the engine as in use, and
unmarks it when all is done. One that was stopped between the two has left the engine in an unknown state,
even if it was stopped while it cleaned up: the next holder finds the mark, ends what was running, and begins
with an empty engine.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from jinfer.engine.engine import Engine
from jinfer.engine.open_queues import OpenQueues
from jinfer.engine.output_queue import OutputQueue
from jinfer.errors import EngineError
from jinfer.requests.request import Sequence

logger = logging.getLogger(__name__)
T = TypeVar("T")
Command = Callable[[Any], None]
"""Changes the engine. It is applied to its argument under the loop's lock."""

CLOSED = "this LLM is closed; create another"
INTERRUPTED = "another call was interrupted within a step, which ended every request; send this one again"
INSIDE_A_STEP = (
    "this thread is in the middle of a step of this engine, which a finalizer or a signal handler cannot "
    "wait for; let the handler set a flag, and use the LLM after the call that it interrupted"
)


class EngineLoop:
    """Steps an engine for any number of callers, in any number of threads."""

    def __init__(self, engine: Engine, give_back: Callable[[], None]) -> None:
        """`give_back` is called when the engine was closed, perhaps more than once. It must not refer to the
        loop."""
        self._engine = engine
        self._give_back = give_back
        self._lock = threading.RLock()  # not to enter twice: it knows whether this thread has it
        self._threads_inside: set[int] = set()  # that have the lock, or wait for it
        self._commands: deque[tuple[Command, Any]] = deque()
        self._open_queues = OpenQueues(engine)
        self._is_in_use = False
        self._is_closed = False
        self._failure: str | None = None
        self._thread: threading.Thread | None = None
        # Of the thread; to put something there takes no lock of Python's.
        self._wake: SimpleQueue[None] | None = None

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def failure(self) -> str | None:
        """The reason for which the engine cannot go on: a reset that failed after a fault. None while it
        can."""
        return self._failure

    def check_open(self) -> None:
        """Raises EngineError if the loop was closed."""
        if self._is_closed:
            raise EngineError(CLOSED)

    def submit(self, queue: OutputQueue) -> None:
        """Queues all requests of an output queue at once. They are accepted before the next step."""
        self._give(self._accept, queue)
        if self._is_closed:
            queue.fail(CLOSED)  # the command may have come too late for a thread to apply it

    def abandon(self, queue: OutputQueue) -> None:
        """Aborts the unfinished requests of a queue without a taker, before the next step. May be
        repeated."""
        if not queue.is_over:
            self._give(self._open_queues.abandon, queue)

    def abort(self, request_id: str) -> None:
        """Ends a request before the next step, unless it has ended; its queue gets the ends of its
        sequences."""
        self._give(self._open_queues.abort, request_id)

    def abort_sequence(self, sequence: Sequence) -> None:
        """Ends one sequence of a request before the next step, unless it has ended."""
        self._give(self._open_queues.abort_sequence, sequence)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Calls a function between two steps, after all that was given before."""
        self._give(_call, function)

    def close_soon(self) -> None:
        """Closes at the end of the step that runs, without waiting for it: for finalizers."""
        self._is_closed = True
        self._give(self._shut, None)

    def close(self) -> None:
        """Fails unfinished requests and frees the engine's memory: now, or at the end of the step around this
        call."""
        self.close_soon()
        if threading.get_ident() not in self._threads_inside:
            self._hold(_nothing)
            if self._thread is not None:
                self._thread.join()

    def _give(self, command: Command, argument: Any) -> None:
        self._commands.append((command, argument))
        if self._wake is not None:
            self._wake.put(None)

    def settle(self) -> None:
        """Applies the commands that were given, unless a thread is in the middle of a step, whose end does
        it."""
        if not self._threads_inside:
            self._hold(_nothing)

    def run_once(self, queue: OutputQueue) -> None:
        """One step for all callers, unless `queue` is over by the time that it is this thread's turn.

        Raises EngineError if the engine fails, or is in the middle of a step in this thread.
        """
        if threading.get_ident() in self._threads_inside:
            raise EngineError(INSIDE_A_STEP)
        self._hold(lambda: _nothing() if queue.is_over else self._step())

    def start(self) -> None:
        """Steps the engine in a thread from now on, while a request runs, until `close`."""
        self._wake = SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=[self._wake, _nothing], name="jinfer-engine", daemon=True
        )
        self._thread.start()

    def run(self, after_turn: Callable[[], None]) -> None:
        """Steps the engine in this thread while a request runs, until `close_soon`. `after_turn` is called
        after each step, and whenever commands were applied."""
        self._wake = SimpleQueue()
        self._wake.put(None)  # for commands that were given before
        self._run(self._wake, after_turn)

    def between_steps(self, look: Callable[[], T]) -> T:
        """Calls a function that changes nothing of the engine, while no step runs."""
        with self._lock:
            return look()

    def _run(self, wake: "SimpleQueue[None]", after_turn: Callable[[], None]) -> None:
        while not self._is_closed:
            wake.get()
            while (self._commands or self._open_queues.has_any) and not self._is_closed:
                self._take_turn()
                after_turn()
        self._take_turn()

    def _take_turn(self) -> None:
        """Runs a step in the thread. A fault has been reported to every caller whose request it ended."""
        try:
            self._hold(lambda: self._step() if self._open_queues.has_any else _nothing())
        except BaseException as error:  # whatever ends this thread would leave every caller waiting
            logger.error("%s", error)
            with self._lock:
                if self._is_in_use:
                    self._failure = str(error)
                    self._refuse(self._failure)

    def _refuse(self, reason: str) -> None:
        """Fails the requests that wait to be accepted, after a reset that failed."""
        for _ in range(len(self._commands)):
            command, argument = self._commands.popleft()
            if command == self._accept:
                argument.fail(reason)
            elif command == self._shut:
                self._commands.append((command, argument))

    def _hold(self, work: Callable[[], None]) -> None:
        """Runs `work` under the lock, with all commands applied before and after it."""
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
        """Gives the lock back, if this thread has it: an interrupt may have come before it was taken, or
        after."""
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
        self._open_queues.end_late()
        self._open_queues.deliver(self._engine.step())

    def _apply_commands(self) -> None:
        """Applies commands in order. Each is removed after it was applied: an interrupted one is applied
        again."""
        while self._commands:
            command, argument = self._commands[0]
            command(argument)
            self._commands.popleft()

    def _accept(self, queue: OutputQueue) -> None:
        if self._is_closed:
            queue.fail(CLOSED)
        if not queue.is_over:
            self._open_queues.accept(queue)

    def _begin_anew(self, reason: str) -> None:
        """Ends everything that was accepted. May be interrupted, and repeated from its beginning."""
        self._open_queues.fail_all(reason)
        try:
            if not self._is_closed:
                self._engine.reset(reason)
        except Exception as error:
            raise EngineError(
                f"{reason}; nor could it begin anew ({error}); close this LLM and create another"
            ) from error
        self._is_in_use = False
        self._failure = None

    def _shut(self, _: None) -> None:
        self._open_queues.fail_all(CLOSED)
        self._engine.close()
        self._give_back()


def _nothing() -> None:
    """The work of a holder that only applies the commands."""


def _call(function: Callable[[], None]) -> None:
    function()
