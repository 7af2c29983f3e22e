"""Logits to tokens, row by row: greedy, temperature, top-k, top-p, min-p, and log probabilities.

A row's token depends on its logits, its parameters, its seed and its position alone. Random numbers are counter based
(Threefry, Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011), keyed by (seed, position), and a token
is drawn with the Gumbel-max trick: argmax(log p + g), g standard Gumbel, has distribution p.

Nothing is sorted. The k-th largest value, and the smallest value whose tail holds probability p, are found by bisection
over the 32 bits of a float, which is exact: the kept set is everything at or above a threshold, ties included.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from jinfer.batching.sampling_words import SamplingRows
from jinfer.sampling_params import MAX_LOGPROBS

FLOAT32_BITS = 32


class StepResult(NamedTuple):
    """What the host reads of a step, one entry per row of its batch.

    `is_finite` is False where logits hold NaN or infinity, so that the token means nothing. `top_*` are the
    MAX_LOGPROBS most likely tokens. Log probabilities are of the model's own distribution, before temperature and
    filters; they are zeros unless a row of the batch wants them.
    """

    token_ids: Int32[Array, " rows"]
    is_finite: Bool[Array, " rows"]
    logprobs: Float32[Array, " rows"]
    top_token_ids: Int32[Array, "rows top"]
    top_logprobs: Float32[Array, "rows top"]


def sample(logits: Float32[Array, "rows vocab"], rows: SamplingRows, positions: Int32[Array, " rows"]) -> StepResult:
    """Chooses the token at `positions[row]` of each row's sequence."""
    allowed = _block(logits, rows, positions)
    greedy = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    is_random = rows.temperature > 0
    drawn = jax.lax.cond(jnp.any(is_random), lambda: _draw(allowed, rows, positions), lambda: jnp.zeros_like(greedy))
    token_ids = jnp.where(is_random, drawn, greedy)
    logprobs = jax.lax.cond(
        jnp.any(rows.wants_logprobs > 0), lambda: _logprobs(logits, token_ids), lambda: _no_logprobs(logits)
    )
    return StepResult(token_ids, jnp.all(jnp.isfinite(logits), axis=-1), *logprobs)


def _logprobs(logits: Array, token_ids: Array) -> tuple[Array, Array, Array]:
    """Of the chosen tokens, and the most likely ones: (logprobs, top_token_ids, top_logprobs) of StepResult."""
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    top_logprobs, top_token_ids = jax.lax.top_k(logprobs, min(MAX_LOGPROBS, logits.shape[-1]))
    chosen = jnp.take_along_axis(logprobs, token_ids[:, None], axis=-1)[:, 0]
    return chosen, top_token_ids.astype(jnp.int32), top_logprobs


def _no_logprobs(logits: Array) -> tuple[Array, Array, Array]:
    rows, top = logits.shape[0], min(MAX_LOGPROBS, logits.shape[-1])
    return jnp.zeros(rows), jnp.zeros((rows, top), jnp.int32), jnp.zeros((rows, top))


def _block(logits: Array, rows: SamplingRows, positions: Array) -> Array:
    """-inf at the blocked ids of rows that have not reached their min_length."""
    vocab_size = logits.shape[-1]
    is_early = (positions < rows.min_length)[:, None] & (rows.blocked_ids >= 0)
    blocked = jnp.where(is_early, rows.blocked_ids, vocab_size)  # out of bounds, and so dropped
    row = jnp.arange(logits.shape[0])[:, None]
    return logits.at[row, blocked].set(-jnp.inf, mode="drop")


def _draw(logits: Array, rows: SamplingRows, positions: Array) -> Array:
    # The largest becomes 0, so that a division by a tiny temperature overflows to -inf only.
    centered = logits - logits.max(axis=-1, keepdims=True)
    scaled = centered / jnp.where(rows.temperature > 0, rows.temperature, 1)[:, None]
    needs_filter = (rows.top_k > 0) | (rows.top_p < 1) | (rows.min_p > 0)
    kept = jax.lax.cond(jnp.any(needs_filter), lambda: _filter(scaled, rows), lambda: scaled)
    return jnp.argmax(kept + _gumbel(rows.seed, positions, logits.shape[-1]), axis=-1).astype(jnp.int32)


def _gumbel(seeds: Array, positions: Array, vocab_size: int) -> Array:
    def one_row(seed, position):
        key = jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), position)
        return jax.random.gumbel(key, (vocab_size,), jnp.float32)

    return jax.vmap(one_row)(seeds, positions)


def _filter(logits: Array, rows: SamplingRows) -> Array:
    """-inf outside top_k, then outside top_p of what is left, and outside min_p."""
    vocab_size = logits.shape[-1]
    top_k = jnp.where(rows.top_k > 0, jnp.minimum(rows.top_k, vocab_size), vocab_size)
    kept = jnp.where(logits >= _kth_largest(logits, top_k)[:, None], logits, -jnp.inf)
    probabilities = jax.nn.softmax(kept, axis=-1)
    threshold = _tail_threshold(probabilities, rows.top_p)
    threshold = jnp.maximum(threshold, rows.min_p * probabilities.max(axis=-1))
    return jnp.where(probabilities >= threshold[:, None], kept, -jnp.inf)


def _kth_largest(values: Float32[Array, "rows n"], k: Int32[Array, " rows"]) -> Float32[Array, " rows"]:
    """The largest t with at least k values >= t."""
    ordered = _ordered_bits(values)
    bits = _largest_bits_where(lambda t: jnp.sum(ordered >= t[:, None], axis=-1) >= k, values.shape[0])
    return jnp.min(jnp.where(ordered >= bits[:, None], values, jnp.inf), axis=-1)


def _tail_threshold(probabilities: Float32[Array, "rows n"], p: Float32[Array, " rows"]) -> Float32[Array, " rows"]:
    """The largest t such that the probabilities >= t add up to at least p; 0 where p is 1, which keeps all."""
    ordered = _ordered_bits(probabilities)

    def holds(t):
        return jnp.sum(jnp.where(ordered >= t[:, None], probabilities, 0), axis=-1) >= p

    bits = _largest_bits_where(holds, probabilities.shape[0])
    threshold = jnp.min(jnp.where(ordered >= bits[:, None], probabilities, jnp.inf), axis=-1)
    return jnp.where(p < 1, threshold, 0)


def _ordered_bits(values: Float32[Array, "rows n"]) -> UInt32[Array, "rows n"]:
    """Unsigned integers in the order of the floats: the sign bit is flipped, and negative numbers are reversed."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    sign = jnp.uint32(1 << (FLOAT32_BITS - 1))
    return jnp.where(bits & sign, ~bits, bits | sign)


def _largest_bits_where(holds, num_rows: int) -> UInt32[Array, " rows"]:
    """Per row the largest t for which `holds(t)`, which is true at 0 and, once false, stays false as t grows."""

    def one_bit(i, found):
        candidate = found | (jnp.uint32(1) << (FLOAT32_BITS - 1 - i).astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    return jax.lax.fori_loop(0, FLOAT32_BITS, one_bit, jnp.zeros(num_rows, jnp.uint32))
