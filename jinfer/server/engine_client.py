"""An engine in another process, as a `ServedEngine` of this event loop."""

import asyncio
import contextlib
import itertools
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import Any

from jinfer import errors
from jinfer.async_queue import AsyncOutputQueue
from jinfer.engine.stats import EngineStats
from jinfer.errors import EngineError, JinferError, OverloadedError, RequestError
from jinfer.server.connection import Connection
from jinfer.server.served_engine import ModelInfo
from jinfer.server.spawn import described_exit, end_process, spawn_engine
from jinfer.server.submissions import Submissions
from jinfer.server.waiting_line import QueueLimits, jittered
from jinfer.server.wire import (
    PROTOCOL,
    Abort,
    Close,
    EngineSpec,
    Failed,
    Fatal,
    Hello,
    Ping,
    Pong,
    PromptLogprobs,
    Ready,
    Starting,
    Step,
    ToFront,
    check_protocol,
)

HEARTBEAT_TIMEOUT_S = 10.0
END_S = 5.0
SHUTTING_DOWN = "the server is shutting down"


class EngineClient:
    """A `ServedEngine` whose engine is a process of its own. Made by `start`; all methods are called in its
    event loop.

    When the process dies, every queue fails with the reason, and `wait_dead` gives it.
    """

    def __init__(
        self, process: Process | None, queue_limits: QueueLimits, on_progress: Callable[[str], None]
    ) -> None:
        """`process` is None where the engine's side of the connection is a thread: for tests."""
        event_loop = asyncio.get_running_loop()
        self._process = process
        self._on_progress = on_progress
        self._submissions = Submissions(queue_limits)
        self._connection = Connection(self._receive, self._lose)
        self._ready: asyncio.Future[Ready] = event_loop.create_future()
        self._dead: asyncio.Future[str] = event_loop.create_future()
        self._pongs: dict[int, asyncio.Future[None]] = {}
        self._ping_numbers = itertools.count()
        self._has_greeted = False
        self._is_closing = False
        self._fatal: JinferError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls,
        spec: EngineSpec,
        *,
        queue_limits: QueueLimits | None = None,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> "EngineClient":
        """Starts the process, and waits until its engine is ready. `on_progress` gets what it says meanwhile,
        line by line, which its stderr has as well.

        Raises ConfigError and ModelError, as `LLM` does, and EngineError where the process dies.
        """
        process, connection = await spawn_engine()
        client = cls(process, queue_limits or QueueLimits(), on_progress)
        client._keep(client._watch(process))
        await client.connect(connection, spec)
        return client

    async def connect(self, connection: socket.socket, spec: EngineSpec) -> None:
        """Greets the engine at the other end, and waits until it is ready. Raises what `start` raises, with
        the process ended."""
        try:
            await self._connection.open(connection)
            self._connection.send(Hello(PROTOCOL))
            self._connection.send(spec)
            ready = await self._ready
        except BaseException:
            self._connection.abort()
            if self._process is not None:
                await end_process(self._process, close_s=END_S)
            raise
        self._info, self._stats = ready.info, ready.stats

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def num_queued_requests(self) -> int:
        """Requests that were submitted and have not begun."""
        return self._submissions.waiting_line.num_requests

    @property
    def num_queued_tokens(self) -> int:
        """Tokens of the prompts of these requests."""
        return self._submissions.waiting_line.num_tokens

    def check_open(self) -> None:
        """Raises EngineError if the engine is dead, with the reason, and OverloadedError if it is about to
        end."""
        if self._dead.done():
            raise EngineError(self._dead.result())
        if self._is_closing:
            raise OverloadedError(SHUTTING_DOWN, retry_after_s=jittered(END_S))

    def submit(self, queue: AsyncOutputQueue) -> None:
        """Queues all requests of an output queue at once. Raises what `check_open` raises, OverloadedError
        where too many wait, and RequestError where they are too large for one message."""
        self.check_open()
        submit = self._submissions.add(queue)
        try:
            self._connection.send(submit)
        except EngineError as error:  # the message is too long
            self._submissions.remove(queue)
            raise RequestError(str(error)) from error

    def abandon(self, queue: AsyncOutputQueue) -> None:
        """Aborts the unfinished requests of a queue that has no taker any more. May be repeated."""
        number = self._submissions.remove(queue)
        if number is not None:
            self._connection.send(Abort(submissions=[number], keys=[]))
        queue.drop_sequences()

    def stats(self) -> EngineStats:
        """The engine's newest figures, at most EngineOutbox's interval older than its last step."""
        return self._stats

    async def heartbeat(self, timeout_s: float = HEARTBEAT_TIMEOUT_S) -> float:
        """Waits until the engine has answered between two steps, and gives the seconds that it took. Raises
        EngineError where that is more than `timeout_s`, and where the engine is dead."""
        self.check_open()
        began, number = time.perf_counter(), next(self._ping_numbers)
        pong = self._pongs[number] = asyncio.get_running_loop().create_future()
        self._connection.send(Ping(number))
        try:
            await asyncio.wait_for(pong, timeout_s)
        except TimeoutError:
            raise EngineError(f"the engine has not answered for {timeout_s:g} s; its step may hang") from None
        finally:
            del self._pongs[number]
        return time.perf_counter() - began

    async def wait_dead(self) -> str:
        """Waits for the end of the engine, and gives the reason."""
        return await asyncio.shield(self._dead)

    async def close(self, grace_s: float = 0.0) -> None:
        """Takes no more requests, waits for those that run up to `grace_s` seconds, fails the rest, and ends
        the process."""
        self._is_closing = True
        if grace_s > 0 and not self._dead.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._submissions.is_idle.wait(), grace_s)
        self._submissions.fail_all(f"{SHUTTING_DOWN}, and this request did not end in time")
        self._connection.send(Close())
        if self._process is not None:
            await end_process(self._process)
        await self.wait_dead()

    def _receive(self, message: ToFront) -> None:
        """Applies a message of the engine. Raises EngineError for one that may not come."""
        if not self._has_greeted:
            check_protocol(message)
            self._has_greeted = True
        elif isinstance(message, Step):
            self._apply(message)
        elif isinstance(message, PromptLogprobs):
            self._submissions.add_prompt_logprobs(message)
        elif isinstance(message, Failed):
            self._submissions.fail(message.submission, message.reason)
        elif isinstance(message, Pong):
            self._stats = message.stats
            self._answer(message.number)
        elif isinstance(message, Starting):
            self._on_progress(message.line)
        elif isinstance(message, Ready):
            self._ready.set_result(message)
        elif isinstance(message, Fatal):
            self._fatal = _error_of(message)
        else:
            raise EngineError(f"{type(message).__name__} came in the middle of a session")

    def _apply(self, step: Step) -> None:
        answer = self._submissions.apply(step)
        if step.stats is not None:
            self._stats = step.stats
        if answer.keys or answer.submissions:
            self._connection.send(answer)

    def _answer(self, number: int) -> None:
        pong = self._pongs.get(number)
        if pong is not None and not pong.done():
            pong.set_result(None)

    def _lose(self, error: Exception | None) -> None:
        """Called when the connection has ended: the process dies, or is made to."""
        if error is not None and self._fatal is None:
            self._fatal = EngineError(str(error))
        self._keep(self._bury())

    async def _bury(self) -> None:
        how = "the connection to it ended"
        if self._process is not None:
            await end_process(self._process, close_s=END_S)
            how = described_exit(self._process.returncode or 0)
        if self._is_closing:
            error: JinferError = EngineError(SHUTTING_DOWN)
        else:
            error = self._fatal or EngineError(f"the engine process is gone: {how}")
        self._dead.set_result(str(error))
        self._submissions.fail_all(str(error))
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._pongs.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    async def _watch(self, process: Process) -> None:
        """Sees the death of a process whose connection somebody else holds open."""
        await process.wait()
        await asyncio.sleep(1)
        self._connection.abort()

    def _keep(self, coroutine) -> None:
        """Runs a coroutine in a task that the garbage collector does not take."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _error_of(message: Fatal) -> JinferError:
    """The error that the engine process says, by the name of its class in `jinfer.errors`."""
    kind = getattr(errors, message.kind, None)
    if not isinstance(kind, type) or not issubclass(kind, JinferError) or issubclass(kind, OverloadedError):
        kind = EngineError
    return kind(message.reason)
