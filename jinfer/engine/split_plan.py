"""Steps in two halves as the engine sees them: which plans need one, and what passes between its halves.

The first half ends with the logits of the rows that get a token, and the second chooses the tokens. In
between, masks that follow from the tokens of the step before can be filled (docs/decisions/0032).
"""

from concurrent.futures import Future
from itertools import accumulate
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jinfer.engine.steps import StepExecutor
from jinfer.requests.request import Request, Sequence
from jinfer.scheduling.step_plan import ChunkPlan, StepPlan

SplitKind = Literal["processed", "processed_logprobs", "scored"]
"""The reason for a step in two halves: a row's logits change, and perhaps log probabilities of what they
became are wanted; or a prompt's log probabilities are."""


class StepMasks(NamedTuple):
    """The masks of some rows of a plan, for the token that its step chooses: uint32, a bit a token.

    `words` came from `new_masks`, and has a mask for each of `rows`, the first ones. One is for no row where
    that is None.
    """

    rows: list[int | None]
    words: NDArray[np.uint32]


class ScoredChunk(NamedTuple):
    """A chunk whose first `num_scored` tokens are scored, of which the first is `first_token` of the step."""

    chunk: ChunkPlan
    first_token: int
    num_scored: int


class SplitExecutor(StepExecutor, Protocol):
    """A device that also runs steps in two halves. Their handles are read as others are."""

    def prepare(self, kind: SplitKind) -> Future[None]:
        """Makes steps in two halves of a kind possible, if need be in a thread: they are when the future is
        done, unless it has an error."""

    def begin(self, plan: StepPlan) -> Any:
        """Starts the first half of a step and returns at once, with its handle. `choose` must follow."""

    def new_masks(self, num_rows: int) -> NDArray[np.uint32]:
        """uint32 [num_rows or more, words], whose first rows are to be filled for `choose`. All steps that
        have masks must have been read: theirs may be written over."""

    def choose(self, handle: Any, masks: StepMasks | None) -> None:
        """Starts the second half: tokens are chosen, under the masks of some rows."""


def split_kinds(request: Request) -> list[SplitKind]:
    """The reasons for which a request needs steps in two halves: none where fused steps serve it."""
    kinds: list[SplitKind] = []
    if request.logits_rules is not None:
        kinds.append("processed")
    if request.params.reports_processed_logprobs:
        kinds.append("processed_logprobs")
    if request.params.prompt_logprobs is not None:
        kinds.append("scored")
    return kinds


def is_split(plan: StepPlan) -> bool:
    """True if a step has to have two halves: a row's logits change, or a prompt is scored."""
    return bool(ruled_rows(plan) or scored_chunks(plan))


def ruled_rows(plan: StepPlan) -> dict[int, Sequence]:
    """The rows of a plan whose logits change, each with its sequence."""
    return {
        row: sequence
        for row, sequence in enumerate(plan.sampling_sequences)
        if sequence is not None and sequence.request.logits_rules is not None
    }


def scored_chunks(plan: StepPlan) -> list[ScoredChunk]:
    """The chunks whose tokens are to be scored, as long as their scores are not read."""
    begins = accumulate((chunk.num_tokens for chunk in plan.chunks), initial=len(plan.decode))
    found = (
        ScoredChunk(chunk, begin, _num_scored(chunk))
        for chunk, begin in zip(plan.chunks, begins, strict=False)
    )
    return [each for each in found if each.num_scored]


def _num_scored(chunk: ChunkPlan) -> int:
    """The first so many tokens have a next one in the prompt whose log probability is wanted."""
    if not chunk.sequence.scores_prompt:
        return 0
    num_left = len(chunk.sequence.request.prompt_token_ids) - 1 - chunk.start
    return max(0, min(chunk.num_tokens, num_left))


def device_rows(plan: StepPlan) -> list[int]:
    """The row on the device of each row of a plan."""
    return [*plan.decode.row_ids, *(chunk.row for chunk in plan.chunks)]
