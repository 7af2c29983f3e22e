"""An engine in the front's own process, stepped by a thread: for tests of routes, and for small uses."""

import asyncio
import time

from jinfer.async_queue import AsyncOutputQueue
from jinfer.engine.engine import Engine
from jinfer.engine.loop import EngineLoop
from jinfer.engine.stats import EngineStats
from jinfer.errors import EngineError
from jinfer.requests.request_rules import RequestRules, RulesFactory
from jinfer.server.served_engine import ModelInfo

HEARTBEAT_TIMEOUT_S = 10.0


class LocalEngine:
    """A `ServedEngine` over an EngineLoop of this process, which `start` was called for.

    The loop stays the caller's, who closes it. There is no bound to the queue of waiting requests.
    """

    def __init__(self, loop: EngineLoop, engine: Engine, info: ModelInfo, rules: RulesFactory) -> None:
        """`rules` makes those of the engine's model."""
        self.info = info
        self._rules = rules
        self._loop = loop
        self._engine = engine

    def check_open(self) -> None:
        """Raises EngineError if the loop was closed."""
        self._loop.check_open()

    def submit(self, queue: AsyncOutputQueue) -> None:
        """Queues all requests of an output queue at once. Raises EngineError if the loop was closed."""
        self.check_open()
        made: dict[int, RequestRules] = {}  # by the identity of parameters, which requests share
        for request in queue.requests:
            key = id(request.params)
            if key not in made:
                made[key] = self._rules.make_late(request.params, request.sequences[0].stop_token_ids)
            made[key].give_to(request)
        self._loop.submit(queue)

    def abandon(self, queue: AsyncOutputQueue) -> None:
        """Aborts the unfinished requests of a queue that has no taker any more. May be repeated."""
        self._loop.abandon(queue)

    def stats(self) -> EngineStats:
        """The present figures, perhaps of the middle of a step."""
        return self._engine.stats()

    async def heartbeat(self) -> float:
        """Waits for the end of the step that runs, and gives the seconds that it took. Raises EngineError
        where that is more than HEARTBEAT_TIMEOUT_S, or the loop was closed."""
        self.check_open()
        began = time.perf_counter()
        between_steps = asyncio.to_thread(self._loop.between_steps, lambda: None)
        try:
            await asyncio.wait_for(between_steps, HEARTBEAT_TIMEOUT_S)
        except TimeoutError:
            raise EngineError(f"the engine is in a step for more than {HEARTBEAT_TIMEOUT_S:g} s") from None
        return time.perf_counter() - began
