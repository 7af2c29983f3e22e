"""The engine process's life: it is started, started again after a death if that is wanted, and ended."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from jinfer.async_queue import AsyncOutputQueue
from jinfer.engine.stats import EngineStats
from jinfer.errors import EngineError, JinferError, OverloadedError
from jinfer.server.engine_client import EngineClient
from jinfer.server.served_engine import ModelInfo
from jinfer.server.waiting_line import jittered
from jinfer.server.wire import EngineSpec

logger = logging.getLogger(__name__)

StartClient = Callable[[EngineSpec], Awaitable[EngineClient]]


@dataclass(frozen=True)
class RestartPolicy:
    """At most `max_restarts` within `window_s` seconds. The wait before each is twice that of the one before,
    from `first_delay_s` to `max_delay_s`."""

    max_restarts: int = 5
    window_s: float = 600.0
    first_delay_s: float = 1.0
    max_delay_s: float = 30.0


class Supervisor:
    """A `ServedEngine` whose engine may be started again. Made by `start`; all methods are called in its
    event loop.

    When an engine dies, what ran on it fails with the reason. With a policy, new requests are refused with
    OverloadedError until another engine is ready; without, or beyond it, `wait_failed` ends with the reason,
    and the server should end with a status that is not 0.
    """

    def __init__(
        self, client: EngineClient, start_client: StartClient, spec: EngineSpec, policy: RestartPolicy | None
    ) -> None:
        self._client = client
        self._start_client = start_client
        self._spec = _with_sizes_of(spec, client.info)
        self._policy = policy
        self._restart_times: deque[float] = deque()
        self._ready_at: float | None = None  # while an engine starts again: when it may be ready
        self._start_s = 0.0
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._watching = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls, spec: EngineSpec, *, policy: RestartPolicy | None, start_client: StartClient
    ) -> "Supervisor":
        """Starts an engine with `start_client`, such as `EngineClient.start`. Raises what that raises: the
        first start is not repeated."""
        began = time.monotonic()
        supervisor = cls(await start_client(spec), start_client, spec, policy)
        supervisor._start_s = time.monotonic() - began
        return supervisor

    @property
    def info(self) -> ModelInfo:
        return self._client.info

    @property
    def num_restarts(self) -> int:
        """Restarts within the policy's window."""
        return len(self._restart_times)

    @property
    def num_queued_requests(self) -> int:
        return self._client.num_queued_requests

    @property
    def num_queued_tokens(self) -> int:
        return self._client.num_queued_tokens

    def check_open(self) -> None:
        """Raises EngineError if the engine is dead for good, and OverloadedError while another starts."""
        if self._failed.done():
            raise EngineError(self._failed.result())
        if self._ready_at is not None:
            left_s = self._ready_at - time.monotonic()
            raise OverloadedError("the engine is being started again", retry_after_s=jittered(left_s))
        self._client.check_open()

    def submit(self, queue: AsyncOutputQueue) -> None:
        """Queues all requests of an output queue at once. Raises what `check_open` raises, and what
        `EngineClient.submit` does."""
        self.check_open()
        self._client.submit(queue)

    def abandon(self, queue: AsyncOutputQueue) -> None:
        """Aborts the unfinished requests of a queue that has no taker any more. May be repeated."""
        self._client.abandon(queue)

    def stats(self) -> EngineStats:
        """The newest figures of the engine, or the last of the one that died."""
        return self._client.stats()

    async def heartbeat(self) -> float:
        """Waits for the engine's answer; see `EngineClient.heartbeat`. Raises what `check_open` raises."""
        self.check_open()
        return await self._client.heartbeat()

    async def wait_failed(self) -> str:
        """Waits until the engine is dead for good, and gives the reason."""
        return await asyncio.shield(self._failed)

    async def close(self, grace_s: float = 0.0) -> None:
        """Ends the engine as `EngineClient.close` does. It is not started again."""
        self._policy = None
        if self._ready_at is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        await self._client.close(grace_s)

    async def _watch(self) -> None:
        """Starts engines until the policy forbids it."""
        while True:
            reason = await self._client.wait_dead()
            try:
                await self._restart(reason)
            except EngineError as error:
                self._failed.set_result(str(error))
                return
            self._ready_at = None

    async def _restart(self, reason: str) -> None:
        """Raises EngineError where the policy allows no other start."""
        while (delay_s := self._next_delay_s()) is not None:
            logger.error("%s; it is started again in %.1f s", reason, delay_s)
            self._ready_at = time.monotonic() + delay_s + self._start_s
            await asyncio.sleep(delay_s)
            try:
                self._client = await self._start_client(self._spec)
                return
            except JinferError as error:
                reason = f"the engine could not be started again: {error}"
        raise EngineError(reason)

    def _next_delay_s(self) -> float | None:
        """Counts a restart, and gives the wait before it. None where the policy does not allow it."""
        policy, now = self._policy, time.monotonic()
        if policy is None:
            return None
        while self._restart_times and now - self._restart_times[0] > policy.window_s:
            self._restart_times.popleft()
        if len(self._restart_times) >= policy.max_restarts:
            return None
        delay_s = policy.first_delay_s * 2 ** len(self._restart_times)
        self._restart_times.append(now)
        return min(delay_s, policy.max_delay_s)


def _with_sizes_of(spec: EngineSpec, info: ModelInfo) -> EngineSpec:
    """The same engine again: requests were checked against the sizes that the first one found in memory."""
    sizes = {"num_pages": info.limits.num_pages, "max_model_len": info.limits.max_model_len}
    return msgspec.structs.replace(spec, options={**spec.options, **sizes})
