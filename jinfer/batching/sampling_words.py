"""A row's sampling parameters as int32 words: written by the host, read by the device, laid out here only.

    word  0            1      2      3      4         5          6           7               8 ... 23      24
          temperature  top_p  min_p  top_k  seed low  seed high  min_length  wants logprobs  blocked ids   prompt length

Reals are float32 bits. `min_length` is the length that the sequence must have before a blocked id (-1: none) may be
chosen. The prompt's length is no matter of sampling: models whose rotary embedding depends on it read it. A row of
zeros samples greedily, which is what padding does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt32

from jinfer.requests.request import Sequence
from jinfer.requests.sampling_params import MAX_STOP_TOKEN_IDS

NO_BLOCKED_ID = -1  # outside every vocabulary
FIRST_BLOCKED = 8
PROMPT_LENGTH = FIRST_BLOCKED + MAX_STOP_TOKEN_IDS
NUM_SAMPLING_WORDS = PROMPT_LENGTH + 1


class SamplingRows(NamedTuple):
    """The sampling parameters of a batch of rows, as the device uses them."""

    temperature: Float32[Array, " rows"]
    top_p: Float32[Array, " rows"]
    min_p: Float32[Array, " rows"]
    top_k: Int32[Array, " rows"]
    seed: UInt32[Array, "rows 2"]
    min_length: Int32[Array, " rows"]
    wants_logprobs: Int32[Array, " rows"]
    blocked_ids: Int32[Array, "rows blocked"]


def sampling_words(sequence: Sequence) -> np.ndarray:
    """The words of a sequence, whose parameters are all resolved. They are made once: every mixed step sends them."""
    if sequence.sampling_words is None:
        sequence.sampling_words = _new_words(sequence)
    return sequence.sampling_words


def _new_words(sequence: Sequence) -> np.ndarray:
    params = sequence.params
    words = np.full(NUM_SAMPLING_WORDS, NO_BLOCKED_ID, np.int32)
    words[0:3] = np.array([params.temperature, params.top_p, params.min_p], np.float32).view(np.int32)
    assert params.top_k is not None  # `with_defaults` has filled it in
    words[3] = params.top_k
    words[4:6] = np.array([sequence.seed], np.uint64).view(np.int32)
    words[PROMPT_LENGTH] = prompt_length = len(sequence.request.prompt_token_ids)
    words[6] = prompt_length + params.min_tokens
    words[7] = params.logprobs is not None
    if params.min_tokens:
        stop_ids = sorted(sequence.stop_token_ids)
        words[FIRST_BLOCKED : FIRST_BLOCKED + len(stop_ids)] = stop_ids
    return words


def read_sampling_words(words: Int32[Array, "rows words"]) -> SamplingRows:
    """The inverse of `sampling_words`, on the device."""
    reals = jax.lax.bitcast_convert_type(words[:, 0:3], jnp.float32)
    return SamplingRows(
        temperature=reals[:, 0],
        top_p=reals[:, 1],
        min_p=reals[:, 2],
        top_k=words[:, 3],
        seed=jax.lax.bitcast_convert_type(words[:, 4:6], jnp.uint32),
        min_length=words[:, 6],
        wants_logprobs=words[:, 7],
        blocked_ids=words[:, FIRST_BLOCKED:PROMPT_LENGTH],
    )
