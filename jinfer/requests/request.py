"""A request, the sequences that run for it, and what comes back to the caller."""

import enum
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from jinfer.config import Limits
from jinfer.errors import RequestError, shown
from jinfer.requests.sampling_params import MAX_STOP_TOKEN_IDS, SamplingParams
from jinfer.text.detokenizer import Detokenizer

SEED_STEP = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: neighbouring sequences get seeds that are far apart
SEED_MODULUS = 2**64


class FinishReason(enum.StrEnum):
    """The reason for an end: a stop string, stop id or end of sequence; a length bound; the caller; a
    fault."""

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
    detokenizer: Detokenizer | None = None
    has_stop_strings: bool = False  # so that every token has to become text at once
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    logprobs: list[dict[int, float]] = field(default_factory=list)
    cumulative_logprob: float = 0.0

    @property
    def params(self) -> SamplingParams:
        return self.request.params

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
    sequences: list[Sequence] = field(default_factory=list)
    # Of the prompt, found in the prefix cache when the first sequence began.
    num_cached_tokens: int | None = None
    first_token_time: float | None = None
    finished_time: float | None = None

    @classmethod
    def create(
        cls,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: Collection[int],
        params: SamplingParams,
        *,
        eos_token_ids: frozenset[int],
        vocab_size: int,
        limits: Limits,
    ) -> "Request":
        """Checks everything that can be known before the request runs. Raises RequestError with the
        numbers."""
        _check_prompt(prompt_token_ids, vocab_size, limits)
        stop_token_ids = frozenset(params.stop_token_ids or ()) | (
            frozenset() if params.ignore_eos else eos_token_ids
        )
        _check_stop_token_ids(stop_token_ids, eos_token_ids, vocab_size, params.min_tokens)
        _check_min_tokens(params.min_tokens, len(prompt_token_ids), stop_token_ids, vocab_size, limits)
        request = cls(request_id, prompt, tuple(prompt_token_ids), params, time.perf_counter())
        max_tokens = limits.max_model_len if params.max_tokens is None else params.max_tokens
        seed = secrets.randbelow(SEED_MODULUS) if params.seed is None else params.seed
        for index in range(params.n):
            request.sequences.append(
                Sequence(
                    request=request,
                    index=index,
                    token_ids=list(prompt_token_ids),
                    stop_token_ids=stop_token_ids,
                    max_total_tokens=min(len(prompt_token_ids) + max_tokens, limits.max_model_len),
                    seed=(seed + index * SEED_STEP) % SEED_MODULUS,
                    has_stop_strings=bool(params.stop_strings),
                )
            )
        return request

    @property
    def is_finished(self) -> bool:
        return all(sequence.is_finished for sequence in self.sequences)


def _check_prompt(prompt_token_ids: Collection[int], vocab_size: int, limits: Limits) -> None:
    if not prompt_token_ids:
        raise RequestError("the prompt has no tokens; give at least one (the text '' is the BOS token alone)")
    for token_id in prompt_token_ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < vocab_size:
            raise RequestError(
                f"the prompt holds token id {shown(token_id)}; ids are integers from 0 to {vocab_size - 1}"
            )
    length = len(prompt_token_ids)
    usable_pages = limits.num_pages - 1
    if limits.pages_for(length + 1) > usable_pages:
        raise RequestError(
            f"the prompt has {length} tokens, which with one more need {limits.pages_for(length + 1)} pages "
            f"of {limits.page_size}, and the KV cache has {usable_pages}: it can never run; shorten it or "
            "raise num_pages"
        )
    if length >= limits.max_model_len:
        raise RequestError(
            f"the prompt has {length} tokens and the context holds {limits.max_model_len}, of which one "
            "must be left for the output; shorten the prompt or raise max_model_len if the model allows"
        )


def _check_stop_token_ids(
    stop_token_ids: frozenset[int], eos_token_ids: frozenset[int], vocab_size: int, min_tokens: int
) -> None:
    """A model may name more ends of sequence than the device can block, which only `min_tokens` asks for."""
    if len(stop_token_ids) > MAX_STOP_TOKEN_IDS and (min_tokens or len(eos_token_ids) <= MAX_STOP_TOKEN_IDS):
        raise RequestError(
            f"{len(stop_token_ids)} stop token ids, the end-of-sequence ids included; at most "
            f"{MAX_STOP_TOKEN_IDS}"
            + (", which min_tokens can block: leave it out, or give ignore_eos=True" if min_tokens else "")
        )
    for token_id in stop_token_ids:
        if token_id >= vocab_size:
            raise RequestError(f"stop token id {shown(token_id)} is outside the vocabulary of {vocab_size}")


def _check_min_tokens(
    min_tokens: int, prompt_length: int, stop_token_ids: frozenset[int], vocab_size: int, limits: Limits
) -> None:
    if min_tokens and len(stop_token_ids) >= vocab_size:
        raise RequestError(
            "every token of the vocabulary is a stop token, so min_tokens can choose none; allow one"
        )
    if prompt_length + min_tokens > limits.max_model_len:
        raise RequestError(
            f"min_tokens={min_tokens} after a prompt of {prompt_length} tokens exceed the context of "
            f"{limits.max_model_len}; lower min_tokens or shorten the prompt"
        )
