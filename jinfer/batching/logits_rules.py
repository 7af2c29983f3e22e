"""The rules of a row that joins, as arrays: what the host sends once for a sequence whose logits change."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float32, Int32, UInt32

from jinfer.config import EngineLimits
from jinfer.requests.logits_rules import MAX_LOGIT_BIAS
from jinfer.requests.request import Sequence
from jinfer.requests.token_masker import num_mask_words

ALL_TOKENS = np.uint32(0xFFFFFFFF)
HostOrDevice = np.ndarray | Array


class JoiningRow(NamedTuple):
    """A row's number, its rules, and the tokens that it has, those of the prompt first."""

    row: Int32[HostOrDevice, ""]
    num_prompt_tokens: Int32[HostOrDevice, ""]
    num_tokens: Int32[HostOrDevice, ""]
    token_ids: Int32[HostOrDevice, " max_model_len"]
    penalties: Float32[HostOrDevice, "3"]
    """The repetition, frequency and presence penalties."""
    bias_ids: Int32[HostOrDevice, " biases"]
    """Unused entries lie outside the vocabulary."""
    biases: Float32[HostOrDevice, " biases"]
    allowed_mask: UInt32[HostOrDevice, " words"]


def empty_row(limits: EngineLimits, vocab_size: int) -> JoiningRow:
    """A row without tokens, to be filled in."""
    return JoiningRow(
        row=np.array(0, np.int32),
        num_prompt_tokens=np.array(0, np.int32),
        num_tokens=np.array(0, np.int32),
        token_ids=np.zeros(limits.max_model_len, np.int32),
        penalties=np.zeros(3, np.float32),
        bias_ids=np.full(MAX_LOGIT_BIAS, vocab_size, np.int32),
        biases=np.zeros(MAX_LOGIT_BIAS, np.float32),
        allowed_mask=np.full(num_mask_words(vocab_size), ALL_TOKENS),
    )


def joining_row(sequence: Sequence, row: int, limits: EngineLimits, vocab_size: int) -> JoiningRow:
    """The arrays of a sequence with rules, all of whose tokens the host knows."""
    rules = sequence.request.logits_rules
    assert rules is not None, "nothing changes its logits"
    empty = empty_row(limits, vocab_size)
    empty.token_ids[: len(sequence.token_ids)] = sequence.token_ids
    empty.penalties[:] = rules.repetition_penalty, rules.frequency_penalty, rules.presence_penalty
    empty.bias_ids[: len(rules.bias)] = list(rules.bias)
    empty.biases[: len(rules.bias)] = list(rules.bias.values())
    if rules.allowed_mask is not None:
        empty.allowed_mask[:] = rules.allowed_mask
    return empty._replace(
        row=np.array(row, np.int32),
        num_prompt_tokens=np.array(len(sequence.request.prompt_token_ids), np.int32),
        num_tokens=np.array(len(sequence.token_ids), np.int32),
    )
