"""A request, the sequences that run for it, and what comes back to the caller."""

import enum
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jinfer.requests.logits_rules import LogitsRules
from jinfer.requests.sampling_params import SamplingParams
from jinfer.requests.token_masker import TokenMasker
from jinfer.text.detokenizer import Detokenizer

ExpertIds = NDArray[np.int16]


class FinishReason(enum.StrEnum):
    """The reason why a completion ended: a stop string, stop id or end of sequence; a length bound; an abort
    by the caller; a fault."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(eq=False, slots=True)
class Sequence:
    """One completion of a request as it runs. The scheduler owns the second group of fields, the engine the
    third."""

    request: "Request"
    index: int
    token_ids: list[int]
    stop_token_ids: frozenset[int]
    max_total_tokens: int
    seed: int

    arrival: int | None = None  # index in the order of arrival, given when it is accepted
    has_begun: bool = False  # it runs, or was preempted
    row: int | None = None  # on the device, while it runs
    page_ids: list[int] = field(default_factory=list)
    num_shared_pages: int = 0  # the first of them, which the prefix cache knows and others may use as well
    cache_node: Any = None  # where they end in the prefix cache
    num_computed_tokens: int = 0  # whose keys and values are written, or will be by a step already planned
    num_pending_tokens: int = 0  # sampled by a step that the host has not read yet: 0 or 1
    # Its row holds its newest token, so that decoding needs nothing from the host.
    has_token_on_device: bool = False

    # The parameters as the device reads them, once they were needed; see batching.
    packed_sampling: Any = None
    masker: TokenMasker | None = None  # what restricts its next token by those before it
    detokenizer: Detokenizer | None = None
    has_stop_strings: bool = False  # so that every token has to become text at once
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    is_refused: bool = (
        False  # its error is what it asks for, which cannot be kept, and no fault of the engine
    )
    logprobs: list[dict[int, float]] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    # [tokens, layers, k] from a position on, where the engine tells them; later ones replace earlier ones.
    expert_ids: list[tuple[int, ExpertIds]] = field(default_factory=list)

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def rank(self) -> tuple[int, int]:
        """The place in the order in which accepted sequences begin; the last one loses its pages first."""
        assert self.arrival is not None, "it was not accepted"
        return self.request.priority, self.arrival

    @property
    def scores_prompt(self) -> bool:
        """True while log probabilities of the prompt are wanted and not all read: its positions must be
        computed, wherever their keys and values may be. The first sequence does it for all."""
        scores = self.request.prompt_logprobs
        return scores is not None and self.index == 0 and None in scores[1:]

    @property
    def num_tokens(self) -> int:
        """Tokens that exist, the unread one included."""
        return len(self.token_ids) + self.num_pending_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[len(self.request.prompt_token_ids) :]

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - len(self.request.prompt_token_ids)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(eq=False)
class Request:
    """A validated prompt with its sampling parameters; `params.n` sequences run for it."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    arrival_time: float
    # What changes its logits. None: nothing does, nor has any sequence a masker, and fused steps serve it.
    logits_rules: LogitsRules | None = None
    priority: int = 0
    """Requests of lower priority begin first, and keep their pages longest; among equals, the first come."""
    sequences: list[Sequence] = field(default_factory=list)
    # Of the prompt, found in the prefix cache when the first sequence began.
    num_cached_tokens: int | None = None
    # By position, where params.prompt_logprobs asks for them; None at the first, and where none is read yet.
    prompt_logprobs: list[dict[int, float] | None] | None = None
    begun_time: float | None = None  # then: until there it waited in line
    first_token_time: float | None = None
    finished_time: float | None = None

    @property
    def is_finished(self) -> bool:
        return all(sequence.is_finished for sequence in self.sequences)


@dataclass(slots=True, eq=False)
class SequenceOutput:
    """A token that was read, None at an end without one. `text` is None where it is not made yet.

    Made once and not changed. It is neither frozen nor a named tuple, for there is one of them for each row
    of each step, and either takes four times as long to make.
    """

    sequence: Sequence
    token_id: int | None
    text: str | None
    finish_reason: FinishReason | None

    def detokenize(self) -> str:
        """The text that has become final with this output. Outputs of a sequence are taken in order, each
        once."""
        if self.text is not None:
            return self.text
        detokenizer = self.sequence.detokenizer
        if detokenizer is None:
            return ""
        text = "" if self.token_id is None else detokenizer.add(self.token_id)
        return text if self.finish_reason is None else text + detokenizer.finish()


def append_token(sequence: Sequence, token_id: int) -> SequenceOutput:
    """Appends a sampled token, and says whether it is the last. It runs for each row of each step.

    Text is made late, when the caller takes it: it costs more than everything else that the host does for a
    token, and is often wanted at the end only. Where a stop string may end the output, every token becomes
    text at once.
    """
    token_ids = sequence.token_ids
    token_ids.append(token_id)
    if sequence.has_stop_strings:
        return _append_text(sequence, token_id)
    if token_id in sequence.stop_token_ids or len(token_ids) >= sequence.max_total_tokens:
        return SequenceOutput(sequence, token_id, None, _end_by_token(sequence, token_id))
    return SequenceOutput(sequence, token_id, None, None)


def _append_text(sequence: Sequence, token_id: int) -> SequenceOutput:
    detokenizer = sequence.detokenizer
    assert detokenizer is not None, "stop strings without a tokenizer"
    text = detokenizer.add(token_id)
    reason = _end_by_token(sequence, token_id)
    if detokenizer.stop_reason is not None and reason is not FinishReason.STOP:
        sequence.stop_reason = detokenizer.stop_reason
        reason = FinishReason.STOP
    return SequenceOutput(sequence, token_id, text if reason is None else text + detokenizer.finish(), reason)


def _end_by_token(sequence: Sequence, token_id: int) -> FinishReason | None:
    """The reason to end with the newest token, whatever its text says."""
    if token_id in sequence.stop_token_ids:
        sequence.stop_reason = token_id if token_id in (sequence.params.stop_token_ids or ()) else None
        return FinishReason.STOP
    return FinishReason.LENGTH if len(sequence.token_ids) >= sequence.max_total_tokens else None
