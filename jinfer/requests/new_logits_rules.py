"""The rules of a request's logits, from its parameters."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from jinfer.errors import RequestError
from jinfer.requests.bad_words import BadWords
from jinfer.requests.logits_rules import LogitsRules
from jinfer.requests.sampling_params import MAX_BIAS, SamplingParams
from jinfer.requests.token_masker import forbid_tokens, full_mask, mask_of, num_allowed


def new_logits_rules(
    params: SamplingParams,
    bad_words: BadWords | None,
    *,
    stop_token_ids: Collection[int],
    vocab_size: int,
) -> LogitsRules | None:
    """The rules; None where nothing is asked for. `params` have the model's defaults, and `bad_words` are
    theirs.

    Raises RequestError for an id outside the vocabulary, and where no token is left: of all that are allowed,
    or of those that end no output where min_tokens needs one.
    """
    assert params.repetition_penalty is not None, "`with_defaults` fills it in"
    if not _asks_for_rules(params):
        return None
    for name, token_ids in (
        ("logit_bias", params.logit_bias),
        ("allowed_token_ids", params.allowed_token_ids),
    ):
        _check_vocabulary(name, token_ids or (), vocab_size)
    return LogitsRules(
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        bias={
            token_id: float(min(max(bias, -MAX_BIAS), MAX_BIAS))
            for token_id, bias in (params.logit_bias or {}).items()
        },
        allowed_mask=_allowed_mask(params, bad_words, stop_token_ids, vocab_size),
    )


def _asks_for_rules(params: SamplingParams) -> bool:
    return bool(
        params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1
        or params.logit_bias
        or params.allowed_token_ids is not None
        or params.bad_words
        or params.structured_outputs is not None
        or (params.logprobs is not None and params.logprobs_mode != "raw_logprobs")
    )


def _check_vocabulary(name: str, token_ids: Collection[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if token_id >= vocab_size:
            raise RequestError(
                f"{name} holds token id {token_id}, which is outside the vocabulary of {vocab_size}",
                param=name,
            )


def _allowed_mask(
    params: SamplingParams, bad_words: BadWords | None, stop_token_ids: Collection[int], vocab_size: int
) -> NDArray[np.uint32] | None:
    single_ids = bad_words.single_ids if bad_words is not None else frozenset()
    if params.allowed_token_ids is None and not single_ids:
        return None
    given = params.allowed_token_ids
    mask = full_mask(vocab_size) if given is None else mask_of(given, vocab_size)
    num_given = num_allowed(mask)
    if not forbid_tokens(mask, single_ids):
        raise RequestError(
            f"bad_words forbid all of the {num_given} tokens that are allowed; allow another or forbid fewer",
            param="bad_words",
        )
    if params.min_tokens and not forbid_tokens(mask.copy(), stop_token_ids):
        raise RequestError(
            f"min_tokens={params.min_tokens} needs tokens that end no output, and the {num_allowed(mask)} "
            "that allowed_token_ids and bad_words leave are end-of-sequence or stop tokens; allow another "
            "or lower min_tokens",
            param="min_tokens",
        )
    return mask
