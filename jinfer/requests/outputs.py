"""Outputs: completions and pieces of a stream, for the caller."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jinfer.requests.request import ExpertIds, FinishReason, Request, Sequence, SequenceOutput

NOT_COMPUTED = -1  # the experts of a token that no step computed


@dataclass(frozen=True)
class RequestMetrics:
    """Times of a request in seconds, from when it was accepted."""

    time_to_first_token_s: float | None
    latency_s: float | None
    num_prompt_tokens: int
    num_output_tokens: int

    @property
    def output_tokens_per_s(self) -> float | None:
        """Output tokens over latency: the speed of this request, and not of the engine."""
        return self.num_output_tokens / self.latency_s if self.latency_s else None


@dataclass(frozen=True)
class CompletionOutput:
    """One completion. `stop_reason` is the stop string or stop token id that ended it; None for end of
    sequence.

    `logprobs` has, per token, the log probability of the sampled token and of the most likely ones, by id.
    `error` says why finish_reason is `error`. `routed_experts`, of an engine with that option, are the
    experts of each token of prompt and output, the best first, in each layer that has some: int16 [tokens,
    layers, k]. They are -1 for what was not computed: tokens that were found in the prefix cache, and the
    last one.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    cumulative_logprob: float | None
    logprobs: tuple[Mapping[int, float], ...] | None
    error: str | None
    routed_experts: ExpertIds | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RequestOutput:
    """The completions of one prompt, in order of their index.

    `num_cached_tokens` of the prompt were found in the prefix cache when the request began; None if it has
    not begun. `prompt_logprobs` has, where they were asked for, the log probabilities of each token of the
    prompt as `logprobs` has those of the output; None for the first token, and for what was not computed.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    finished: bool
    metrics: RequestMetrics
    num_cached_tokens: int | None
    prompt_logprobs: tuple[Mapping[int, float] | None, ...] | None

    @property
    def text(self) -> str:
        """The text of the first completion."""
        return self.outputs[0].text

    @classmethod
    def of(cls, request: Request) -> "RequestOutput":
        """The output of a request so far, or at its end."""
        return cls(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=request.prompt_token_ids,
            outputs=tuple(_completion(sequence) for sequence in request.sequences),
            finished=request.is_finished,
            metrics=RequestMetrics(
                time_to_first_token_s=_since(request.arrival_time, request.first_token_time),
                latency_s=_since(request.arrival_time, request.finished_time),
                num_prompt_tokens=len(request.prompt_token_ids),
                num_output_tokens=sum(sequence.num_output_tokens for sequence in request.sequences),
            ),
            num_cached_tokens=request.num_cached_tokens,
            prompt_logprobs=_prompt_logprobs(request),
        )


@dataclass(frozen=True)
class StreamPiece:
    """New final text of one completion, with the tokens read since the last piece. str() is the text.

    The last piece of a completion, and no other, has a finish_reason; `error` says why where that is `error`.
    """

    prompt_index: int
    output_index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    error: str | None = None

    @classmethod
    def of(cls, prompt_index: int, output: SequenceOutput) -> "StreamPiece":
        """The piece of text of a sequence output. The outputs of a sequence must be given in order, each
        once."""
        sequence = output.sequence
        is_last = output.finish_reason is not None
        return cls(
            prompt_index=prompt_index,
            output_index=sequence.index,
            text=output.detokenize(),
            token_ids=() if output.token_id is None else (output.token_id,),
            finish_reason=output.finish_reason,
            error=sequence.error if is_last else None,
        )

    def __str__(self) -> str:
        return self.text


def _prompt_logprobs(request: Request) -> tuple[Mapping[int, float] | None, ...] | None:
    if request.params.prompt_logprobs is None:
        return None
    return tuple(request.prompt_logprobs or [None] * len(request.prompt_token_ids))


def _completion(sequence: Sequence) -> CompletionOutput:
    wants_logprobs = sequence.params.logprobs is not None
    return CompletionOutput(
        index=sequence.index,
        text=_text(sequence),
        token_ids=tuple(sequence.output_token_ids),
        finish_reason=sequence.finish_reason,
        stop_reason=sequence.stop_reason,
        cumulative_logprob=sequence.cumulative_logprob if wants_logprobs else None,
        logprobs=tuple(sequence.logprobs) if wants_logprobs else None,
        error=sequence.error,
        routed_experts=_routed_experts(sequence),
    )


def _routed_experts(sequence: Sequence) -> ExpertIds | None:
    """The experts of each token: of a position that was computed twice, those of the last time."""
    if not sequence.expert_ids:
        return None
    num_tokens, shape = len(sequence.token_ids), sequence.expert_ids[0][1].shape
    experts = np.full((num_tokens, *shape[1:]), NOT_COMPUTED, np.int16)
    for position, found in sequence.expert_ids:
        experts[position : position + len(found)] = found[: max(0, num_tokens - position)]
    return experts


def _text(sequence: Sequence) -> str:
    """All text of a sequence: that of the tokens detokenized before, and of the rest."""
    detokenizer = sequence.detokenizer
    if detokenizer is None:
        return ""
    waiting = sequence.output_token_ids[detokenizer.num_tokens :]
    if sequence.is_finished:
        detokenizer.finish(waiting)
    else:
        for token_id in waiting:
            detokenizer.add(token_id)
    return detokenizer.text


def _since(start: float, end: float | None) -> float | None:
    return None if end is None else end - start
