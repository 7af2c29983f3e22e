"""The bound to what waits for an engine: requests that were submitted and have not begun, and their
prompts."""

import random
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from jinfer.errors import OverloadedError
from jinfer.requests.request import Request

MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0
NUM_TIMES_KEPT = 128


@dataclass(frozen=True)
class QueueLimits:
    """The most that may wait for an engine; None is no bound. A line that is empty takes a request of any
    size."""

    max_queued_requests: int | None = None
    max_queued_tokens: int | None = None
    """Tokens of the prompts that wait."""


def jittered(seconds: float) -> float:
    """About so many seconds: callers who are sent away together should not come back together."""
    return min(max(seconds, MIN_RETRY_S), MAX_RETRY_S) * random.uniform(0.75, 1.25)


class WaitingLine:
    """Counts what waits, and measures how fast it moves on."""

    def __init__(self, limits: QueueLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._num_tokens_of: dict[Request, int] = {}
        self._begun: deque[float] = deque(maxlen=NUM_TIMES_KEPT)  # times
        self.num_tokens = 0

    @property
    def num_requests(self) -> int:
        return len(self._num_tokens_of)

    def check(self, requests: Collection[Request]) -> None:
        """Raises OverloadedError, with the seconds until it may be worth trying again, unless there is room
        for the requests."""
        if not self.num_requests:
            return
        num_tokens = sum(len(request.prompt_token_ids) for request in requests)
        for name, waiting, new, bound in (
            ("requests", self.num_requests, len(requests), self._limits.max_queued_requests),
            ("tokens", self.num_tokens, num_tokens, self._limits.max_queued_tokens),
        ):
            if bound is not None and waiting + new > bound:
                raise OverloadedError(
                    f"{waiting} {name} wait for the engine, and {new} more exceed max_queued_{name}={bound}; "
                    "try again later",
                    retry_after_s=jittered(self._seconds_until_empty()),
                )

    def add(self, request: Request) -> None:
        """Adds a request at the end."""
        self._num_tokens_of[request] = len(request.prompt_token_ids)
        self.num_tokens += len(request.prompt_token_ids)

    def begin(self, request: Request) -> None:
        """Takes out a request that runs from now on."""
        if request in self._num_tokens_of:
            self._begun.append(self._clock())
            self.drop(request)

    def drop(self, request: Request) -> None:
        """Takes out a request that needs to wait no longer, if it is there."""
        self.num_tokens -= self._num_tokens_of.pop(request, 0)

    def _seconds_until_empty(self) -> float:
        """The time until all that wait have begun, at the rate of the last ones."""
        if len(self._begun) < 2:
            return MIN_RETRY_S
        elapsed_s = max(self._clock() - self._begun[0], 1e-3)
        return self.num_requests * elapsed_s / len(self._begun)
