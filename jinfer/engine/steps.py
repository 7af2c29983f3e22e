"""The steps of an engine: what runs them, how many are in flight, and what comes back.

With one step in flight, the host plans a step while the device computes the one before. A host that waits for
the device for less than SHORT_WAIT_S is the bottleneck itself: one late dispatch, and the device is idle. Two
steps in flight make up for it. Otherwise one is better: with two, a request that joins waits for one step
more.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from jinfer.requests.request import ExpertIds, Request
from jinfer.scheduling.step_plan import StepPlan

SHORT_WAIT_S = 0.25e-3

DepthRule = Callable[[float], int]
"""Steps that stay in flight while the next is planned, by how long the host last waited for the device, in
seconds."""


class TokenLogprobs(NamedTuple):
    """The log probability of a sampled token, and those of the most likely tokens, the most likely first."""

    logprob: float
    top_token_ids: list[int]
    top_logprobs: list[float]


class ChunkScores(NamedTuple):
    """Log probabilities of a prompt's tokens from position `start` on."""

    request: Request
    start: int
    logprobs: list[TokenLogprobs]


@dataclass(slots=True, eq=False)
class StepOutput:
    """The results of one step on the host, row by row of its plan. Made once and not changed.

    A token is None where the logits were not finite. `token_ids` may be longer than the plan: padding comes
    last. `logprobs` has the rows that were asked for, and `expert_ids` the experts of all tokens of the step,
    [layers, tokens, k]. `wait_s` is how long the host waited for the device.
    """

    token_ids: list[int | None]
    logprobs: Mapping[int, TokenLogprobs]
    wait_s: float
    prompt_scores: Sequence[ChunkScores] = ()
    expert_ids: ExpertIds | None = None


class StepExecutor(Protocol):
    """The device as the engine sees it. Steps are read in the order in which they are dispatched, each
    once."""

    def dispatch(self, plan: StepPlan) -> Any:
        """Starts a step and returns at once, with a handle of the step."""

    def read(self, handle: Any, logprob_rows: Sequence[int]) -> StepOutput:
        """Waits for a step. Log probabilities come to the host for `logprob_rows` only."""

    def reset(self) -> None:
        """Begins with an empty state, after a fault. It may be interrupted, and done again."""

    def close(self) -> None:
        """Gives back the memory of the state. The executor cannot be used afterwards."""


def overlapped(last_wait_s: float) -> int:
    """The rule of an engine that plans ahead."""
    return 2 if last_wait_s < SHORT_WAIT_S else 1


def one_at_a_time(last_wait_s: float) -> int:
    """The rule of an engine that reads each step before it plans the next."""
    return 0


@dataclass(slots=True, eq=False)
class StepInFlight:
    """A step that was dispatched and not read yet. The handle is the executor's."""

    plan: StepPlan
    handle: Any


class StepQueue:
    """Steps in flight, in the order of their dispatch."""

    def __init__(self, depth: DepthRule) -> None:
        self.depth = depth
        self.last_wait_s = math.inf
        self._steps: deque[StepInFlight] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def newest(self) -> StepInFlight | None:
        """The step that was dispatched last, unless it was read."""
        return self._steps[-1] if self._steps else None

    def append(self, plan: StepPlan, handle: Any) -> None:
        """Adds a step that was dispatched."""
        self._steps.append(StepInFlight(plan, handle))

    def take_due(self, *, has_new_step: bool) -> list[StepInFlight]:
        """Takes out the steps to be read now, oldest first: those beyond the depth, and one at a time when
        nothing new could be planned."""
        num_steps = len(self._steps)
        num_left = self.depth(self.last_wait_s) if has_new_step else max(0, num_steps - 1)
        return [self._steps.popleft() for _ in range(num_steps - num_left)]

    def take_all(self) -> list[StepInFlight]:
        """Takes out all steps, oldest first."""
        steps = list(self._steps)
        self._steps.clear()
        return steps

    def clear(self) -> None:
        """Forgets all steps."""
        self._steps.clear()
