"""A request as it is made: everything that can be known before it runs is checked. Each check raises
RequestError with the numbers."""

import secrets
import time
from collections.abc import Collection

from jinfer.config import EngineLimits
from jinfer.errors import RequestError, shown
from jinfer.requests.request import Request, Sequence
from jinfer.requests.sampling_params import MAX_STOP_TOKEN_IDS, SamplingParams

SEED_STEP = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: neighbouring sequences get seeds that are far apart
SEED_MODULUS = 2**64
MAX_PRIORITY = 2**31 - 1
TOO_LONG = "context_length_exceeded"  # OpenAI's code, by which clients know to leave messages out


def create_request(
    request_id: str,
    prompt: str | None,
    prompt_token_ids: Collection[int],
    params: SamplingParams,
    *,
    eos_token_ids: frozenset[int],
    vocab_size: int,
    limits: EngineLimits,
    priority: int = 0,
) -> Request:
    """Checks everything that can be known before the request runs. It has no rules of logits yet. Raises
    RequestError with the numbers."""
    _check_priority(priority)
    _check_prompt(prompt_token_ids, vocab_size, limits)
    stop_token_ids = stop_ids_of(params, eos_token_ids, vocab_size)
    _check_min_tokens(params.min_tokens, len(prompt_token_ids), stop_token_ids, vocab_size, limits)
    request = Request(
        request_id=request_id,
        prompt=prompt,
        prompt_token_ids=tuple(prompt_token_ids),
        params=params,
        arrival_time=time.perf_counter(),
        priority=priority,
    )
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


def stop_ids_of(params: SamplingParams, eos_token_ids: frozenset[int], vocab_size: int) -> frozenset[int]:
    """The token ids that end an output. Raises RequestError for too many, and for one outside the
    vocabulary."""
    stop_token_ids = frozenset(params.stop_token_ids or ()) | (
        frozenset() if params.ignore_eos else eos_token_ids
    )
    _check_stop_token_ids(stop_token_ids, eos_token_ids, vocab_size, params.min_tokens)
    return stop_token_ids


def _check_priority(priority: int) -> None:
    if not isinstance(priority, int) or isinstance(priority, bool) or abs(priority) > MAX_PRIORITY:
        raise RequestError(
            f"priority={shown(priority)} must be an integer from -{MAX_PRIORITY} to {MAX_PRIORITY}; lower "
            "ones begin first",
            param="priority",
        )


def _check_prompt(prompt_token_ids: Collection[int], vocab_size: int, limits: EngineLimits) -> None:
    """The prompt has tokens of the vocabulary, and can run when it is alone, with a token of output."""
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
            "raise num_pages",
            code=TOO_LONG,
        )
    if length >= limits.max_model_len:
        raise RequestError(
            f"the prompt has {length} tokens and the context holds {limits.max_model_len}, of which one "
            "must be left for the output; shorten the prompt or raise max_model_len if the model allows",
            code=TOO_LONG,
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
    min_tokens: int, prompt_length: int, stop_token_ids: frozenset[int], vocab_size: int, limits: EngineLimits
) -> None:
    """The context holds `min_tokens` of output, and some token may be chosen for them."""
    if min_tokens and len(stop_token_ids) >= vocab_size:
        raise RequestError(
            "every token of the vocabulary is a stop token, so min_tokens can choose none; allow one"
        )
    if prompt_length + min_tokens > limits.max_model_len:
        raise RequestError(
            f"min_tokens={min_tokens} after a prompt of {prompt_length} tokens exceed the context of "
            f"{limits.max_model_len}; lower min_tokens or shorten the prompt"
        )
