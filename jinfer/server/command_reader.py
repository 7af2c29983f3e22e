"""The thread of the engine process that reads the front's commands, and hands them to the loop.

It decodes, and makes the rules of requests. Every command is applied by the thread that steps, before its
next step.
"""

import functools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

from jinfer.engine.loop import EngineLoop
from jinfer.errors import EngineError
from jinfer.requests.request import Sequence
from jinfer.requests.request_rules import RulesFactory
from jinfer.server.engine_outbox import EngineOutbox, WireQueue
from jinfer.server.frames import FrameReader
from jinfer.server.wire import Abort, Close, Ping, Submit, ToEngine, decode_for_engine
from jinfer.server.wire_requests import from_wire

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 2**18
MAX_CLOSE_S = 20.0


class MessageStream:
    """The messages of the front, in order. The end of the connection ends it."""

    def __init__(self, connection: socket.socket) -> None:
        self._messages = self._read(connection)

    def __iter__(self) -> Iterator[ToEngine]:
        return self._messages

    def __next__(self) -> ToEngine:
        """Raises StopIteration at the end, EngineError for what is no message, OSError."""
        return next(self._messages)

    @staticmethod
    def _read(connection: socket.socket) -> Iterator[ToEngine]:
        frames = FrameReader()
        while data := connection.recv(RECEIVE_BYTES):
            for frame in frames.feed(data):
                yield decode_for_engine(frame)


class CommandReader:
    """Reads in a thread from `start` on. Commands are taken once `attach` has given it a loop.

    When the connection ends, or brings what is no message, the loop is closed; and the process is left with
    `exit_now` where there is no loop yet, or where it does not come to its end within MAX_CLOSE_S, because a
    step hangs.
    """

    def __init__(self, messages: MessageStream, exit_now: Callable[[], None]) -> None:
        self._messages = messages
        self._exit_now = exit_now
        self._loop: EngineLoop | None = None
        self._outbox: EngineOutbox | None = None
        self._rules: RulesFactory | None = None
        self._queues: dict[int, WireQueue] = {}  # that are not over, by submission
        self._sequences: dict[int, Sequence] = {}  # of these queues, by key
        self._has_ended = False
        self._last_resort: threading.Timer | None = None

    def start(self) -> None:
        """Starts the thread."""
        threading.Thread(target=self._run, name="jinfer-commands", daemon=True).start()

    def attach(self, loop: EngineLoop, outbox: EngineOutbox, rules: RulesFactory) -> None:
        """Gives the commands from now on to a loop. `rules` makes those of its engine's model."""
        self._outbox = outbox
        self._rules = rules
        self._loop = loop
        if self._has_ended:
            loop.close_soon()

    def detach(self) -> None:
        """Says that the loop has ended, as it should."""
        if self._last_resort is not None:
            self._last_resort.cancel()

    def _run(self) -> None:
        try:
            for message in self._messages:
                if isinstance(message, Close):
                    break
                self._apply(message)
        except (EngineError, OSError) as error:
            logger.error("the connection to the front ends: %s", error)
        finally:
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        if self._loop is None:
            self._exit_now()
            return
        self._last_resort = threading.Timer(MAX_CLOSE_S, self._exit_now)
        self._last_resort.daemon = True
        self._last_resort.start()
        self._loop.close_soon()

    def _apply(self, message: ToEngine) -> None:
        if self._loop is None or self._outbox is None or self._rules is None:
            raise EngineError(f"{type(message).__name__} came before the engine was ready")
        if isinstance(message, Submit):
            self._submit(message, self._loop, self._outbox, self._rules)
        elif isinstance(message, Abort):
            self._abort(message, self._loop)
        elif isinstance(message, Ping):
            self._loop.call_soon(functools.partial(self._outbox.answer, message.number))
        else:
            raise EngineError(f"{type(message).__name__} came in the middle of a session")

    def _submit(self, message: Submit, loop: EngineLoop, outbox: EngineOutbox, rules: RulesFactory) -> None:
        requests = from_wire(message, rules)
        queue = WireQueue(
            message.submission,
            requests,
            outbox,
            deadline=None if message.timeout_s is None else time.monotonic() + message.timeout_s,
            when_over=self._forget,
        )
        self._queues[message.submission] = queue
        self._sequences |= {key: sequence for sequence, key in queue.keys.items()}
        loop.call_soon(functools.partial(outbox.add_waiting, requests))
        loop.submit(queue)

    def _abort(self, message: Abort, loop: EngineLoop) -> None:
        """Gives on the aborts of all that is still there; the rest has ended in the meantime."""
        for submission in message.submissions:
            queue = self._queues.get(submission)
            if queue is not None:
                loop.abandon(queue)
                loop.call_soon(queue.drop_sequences)  # once they are aborted
                self._forget(queue)
        for key in message.keys:
            sequence = self._sequences.get(key)
            if sequence is not None:
                loop.abort_sequence(sequence)

    def _forget(self, queue: WireQueue) -> None:
        """Called by both threads, each step of it atomic."""
        self._queues.pop(queue.submission, None)
        for key in queue.keys.values():
            self._sequences.pop(key, None)
