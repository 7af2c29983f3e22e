"""Sampling in plain jax.numpy, without sorting: thresholds are found by bisection over the 32 bits of a
float.

Bisection is exact: the kept set is everything at or above a threshold, ties included. Random numbers, filters
and log probabilities are computed only when a row of the batch needs them, which saves most of the
time on a CPU.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.sampling.draw import draw_slice_size

FLOAT32_BITS = 32
SMALLEST_NORMAL = float(jnp.finfo(jnp.float32).tiny)  # what is smaller may be taken for 0


def sample(
    logits: Array,
    temperature: Array,
    top_p: Array,
    min_p: Array,
    top_k: Array,
    seeds: Array,
    positions: Array,
    min_lengths: Array,
    blocked_ids: Array,
) -> tuple[Array, Array]:
    """See `pallas_kernels.sampling.sample`."""
    top_p = jnp.maximum(top_p, SMALLEST_NORMAL)
    allowed = _without_blocked(logits, positions < min_lengths, blocked_ids)
    is_random = temperature > 0
    greedy = jnp.argmax(allowed, axis=-1).astype(jnp.int32)

    def draw():
        scaled = _scaled(allowed, temperature)
        vocab_size = logits.shape[-1]
        is_filtered = ((top_k > 0) & (top_k < vocab_size)) | (top_p < 1) | (min_p > 0)
        keys = _keys(seeds, positions)
        in_slice = _in_drawn_slice(scaled, keys, draw_slice_size(vocab_size))

        def filtered():
            return jnp.where(is_filtered[:, None], kept_by(scaled, top_k, top_p, min_p), in_slice)

        kept = jax.lax.cond(jnp.any(is_filtered), filtered, lambda: in_slice)
        return jnp.argmax(kept + _gumbel(keys, vocab_size), axis=-1).astype(jnp.int32)

    drawn = jax.lax.cond(jnp.any(is_random), draw, lambda: jnp.zeros_like(greedy))
    return jnp.where(is_random, drawn, greedy), jnp.all(jnp.isfinite(logits), axis=-1)


def top_logprobs(logits: Array, token_ids: Array, wanted: Array, count: int) -> tuple[Array, Array, Array]:
    """See `pallas_kernels.sampling.top_logprobs`."""

    def of_all():
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        top, ids = jax.lax.top_k(logprobs, count)
        return jnp.take_along_axis(logprobs, token_ids[:, None], axis=-1)[:, 0], ids.astype(jnp.int32), top

    rows = logits.shape[0]
    nothing = jnp.zeros(rows), jnp.zeros((rows, count), jnp.int32), jnp.zeros((rows, count))
    found = jax.lax.cond(jnp.any(wanted), of_all, lambda: nothing)
    logprobs, ids, top = found
    return (
        jnp.where(wanted, logprobs, 0),
        jnp.where(wanted[:, None], ids, 0),
        jnp.where(wanted[:, None], top, 0),
    )


def sampled_logits(
    logits: Array,
    temperature: Array,
    top_p: Array,
    min_p: Array,
    top_k: Array,
    positions: Array,
    min_lengths: Array,
    blocked_ids: Array,
) -> Array:
    """See `pallas_kernels.sampling.sampled_logits`."""
    allowed = _without_blocked(logits, positions < min_lengths, blocked_ids)
    kept = kept_by(_scaled(allowed, temperature), top_k, jnp.maximum(top_p, SMALLEST_NORMAL), min_p)
    return jnp.where((temperature > 0)[:, None], kept, allowed)


def kept_by(logits: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """-inf outside top_k, then outside top_p of what is left, and outside min_p."""
    vocab_size = logits.shape[-1]
    top_k = jnp.where(top_k > 0, jnp.minimum(top_k, vocab_size), vocab_size)
    kept = jnp.where(logits >= _kth_largest(logits, top_k)[:, None], logits, -jnp.inf)
    probabilities = jax.nn.softmax(kept, axis=-1)
    threshold = _tail_threshold(probabilities, top_p)
    threshold = jnp.maximum(threshold, min_p * probabilities.max(axis=-1))
    return jnp.where(probabilities >= threshold[:, None], kept, -jnp.inf)


def _without_blocked(logits: Array, is_early: Array, blocked_ids: Array) -> Array:
    vocab_size = logits.shape[-1]
    # Out of bounds, and so dropped.
    blocked = jnp.where(is_early[:, None] & (blocked_ids >= 0), blocked_ids, vocab_size)
    row = jnp.arange(logits.shape[0])[:, None]
    return logits.at[row, blocked].set(-jnp.inf, mode="drop")


def _scaled(logits: Array, temperature: Array) -> Array:
    """The largest becomes 0, so that a division by a tiny temperature overflows to -inf only."""
    centered = logits - logits.max(axis=-1, keepdims=True)
    return centered / jnp.maximum(jnp.where(temperature > 0, temperature, 1), SMALLEST_NORMAL)[:, None]


def _in_drawn_slice(logits: Array, keys: Array, slice_size: int) -> Array:
    """-inf outside of a slice that is drawn by the sum of its probabilities."""
    rows, vocab_size = logits.shape
    num_slices = -(-vocab_size // slice_size)
    padding = num_slices * slice_size - vocab_size
    slices = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf).reshape(
        rows, num_slices, slice_size
    )
    noise = _gumbel(jax.vmap(lambda key: jax.random.fold_in(key, vocab_size))(keys), num_slices)
    drawn = jnp.argmax(jax.nn.logsumexp(slices, axis=-1) + noise, axis=-1)
    return jnp.where(jnp.arange(vocab_size) // slice_size == drawn[:, None], logits, -jnp.inf)


def _keys(seeds: Array, positions: Array) -> Array:
    keys = jax.vmap(lambda seed: jax.random.wrap_key_data(seed, impl="threefry2x32"))(seeds)
    return jax.vmap(jax.random.fold_in)(keys, positions)


def _gumbel(keys: Array, size: int) -> Array:
    return jax.vmap(lambda key: jax.random.gumbel(key, (size,), jnp.float32))(keys)


def _kth_largest(values: Array, k: Array) -> Array:
    """The largest t with at least k values >= t."""
    ordered = _ordered_bits(values)
    bits = _largest_bits_where(lambda t: jnp.sum(ordered >= t[:, None], axis=-1) >= k, values.shape[0])
    return jnp.min(jnp.where(ordered >= bits[:, None], values, jnp.inf), axis=-1)


def _tail_threshold(probabilities: Array, p: Array) -> Array:
    """The largest t such that the probabilities >= t add up to at least p; 0 where p is 1, which keeps
    all."""
    ordered = _ordered_bits(probabilities)

    def holds(t):
        return jnp.sum(jnp.where(ordered >= t[:, None], probabilities, 0), axis=-1) >= p

    bits = _largest_bits_where(holds, probabilities.shape[0])
    threshold = jnp.min(jnp.where(ordered >= bits[:, None], probabilities, jnp.inf), axis=-1)
    return jnp.where(p < 1, threshold, 0)


def _ordered_bits(values: Array) -> Array:
    """Unsigned integers in the order of the floats: the sign bit is flipped, and negative numbers are
    reversed."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    sign = jnp.uint32(1 << (FLOAT32_BITS - 1))
    return jnp.where(bits & sign, ~bits, bits | sign)


def _largest_bits_where(holds, num_rows: int) -> Array:
    """Per row the largest t for which `holds(t)`, which is true at 0 and, once false, stays false as t
    grows."""

    def one_bit(i, found):
        candidate = found | (jnp.uint32(1) << (FLOAT32_BITS - 1 - i).astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    return jax.lax.fori_loop(0, FLOAT32_BITS, one_bit, jnp.zeros(num_rows, jnp.uint32))
