"""A row's sampling parameters, packed: written by the host, read by the device, laid out here only.

    index 0            1      2      3      4         5
          temperature  top_p  min_p  top_k  seed low  seed high
    index 6           7         8 ... 23     24
          min_length  logprobs  blocked ids  prompt length

All are int32; reals are float32 bits. `min_length` is the length that the sequence must have before a blocked
id may be chosen; unused entries of blocked ids hold NO_BLOCKED_ID. Models whose rotary embedding depends on
the prompt's length read it here. A row of zeros samples greedily, and so does padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt32

from jinfer.requests.request import Sequence
from jinfer.requests.sampling_params import MAX_STOP_TOKEN_IDS, SamplingParams

NO_BLOCKED_ID = -1  # on the device: outside every vocabulary, so that it blocks nothing
RAW_LOGPROBS, PROCESSED_LOGPROBS = 1, 2  # of a row that wants them; 0 of any other
FIRST_BLOCKED = 8
PROMPT_LENGTH = FIRST_BLOCKED + MAX_STOP_TOKEN_IDS
SAMPLING_SIZE = PROMPT_LENGTH + 1


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


def packed_sampling(sequence: Sequence) -> np.ndarray:
    """The packed parameters of a sequence, all resolved. Made once, since every mixed step sends them."""
    if sequence.packed_sampling is None:
        sequence.packed_sampling = _pack_sampling(sequence)
    return sequence.packed_sampling


def _pack_sampling(sequence: Sequence) -> np.ndarray:
    params = sequence.params
    assert params.top_k is not None  # `with_defaults` has filled it in
    prompt_length = len(sequence.request.prompt_token_ids)
    packed = np.full(SAMPLING_SIZE, NO_BLOCKED_ID, np.int32)
    packed[0:3] = np.array([params.temperature, params.top_p, params.min_p], np.float32).view(np.int32)
    packed[3] = params.top_k
    packed[4:6] = np.array([sequence.seed], np.uint64).view(np.int32)
    packed[6] = prompt_length + params.min_tokens
    packed[7] = _wanted_logprobs(params)
    packed[PROMPT_LENGTH] = prompt_length
    if params.min_tokens:
        stop_ids = sorted(sequence.stop_token_ids)
        packed[FIRST_BLOCKED : FIRST_BLOCKED + len(stop_ids)] = stop_ids
    return packed


def _wanted_logprobs(params: SamplingParams) -> int:
    if params.logprobs is None:
        return 0
    return PROCESSED_LOGPROBS if params.reports_processed_logprobs else RAW_LOGPROBS


def unpack_sampling(packed: Int32[Array, "rows packed"]) -> SamplingRows:
    """The inverse of `packed_sampling`, on the device."""
    reals = jax.lax.bitcast_convert_type(packed[:, 0:3], jnp.float32)
    return SamplingRows(
        temperature=reals[:, 0],
        top_p=reals[:, 1],
        min_p=reals[:, 2],
        top_k=packed[:, 3],
        seed=jax.lax.bitcast_convert_type(packed[:, 4:6], jnp.uint32),
        min_length=packed[:, 6],
        wants_logprobs=packed[:, 7],
        blocked_ids=packed[:, FIRST_BLOCKED:PROMPT_LENGTH],
    )
