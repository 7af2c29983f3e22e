"""The seam between the engine and a device: what an executor does, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from jinfer.scheduling.step_plan import StepPlan


class TokenLogprobs(NamedTuple):
    """The log probability of a sampled token, and those of the most likely tokens, the most likely first."""

    logprob: float
    top_token_ids: list[int]
    top_logprobs: list[float]


@dataclass(slots=True, eq=False)
class StepOutput:
    """The results of one step on the host, row by row of its plan. Made once and not changed.

    A token is None where the logits were not finite. `token_ids` may be longer than the plan: padding comes
    last. `logprobs` has the rows that were asked for. `wait_s` is how long the host waited for the device.
    """

    token_ids: list[int | None]
    logprobs: Mapping[int, TokenLogprobs]
    wait_s: float


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
