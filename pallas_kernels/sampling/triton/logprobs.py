"""Log probabilities of a row: its logits are read once, and then again only in the slices of the largest.

Slices and their largest logits that are not taken yet take turns: the slice of the largest of all gives its
first one away, and is read for its next.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.core.exponential import exp, finite_or_zero
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.sampling.tuning import num_slices


def logprobs_kernel(
    logits_ref,
    token_ids_ref,
    wanted_ref,
    logprobs_ref,
    top_ids_ref,
    top_logprobs_ref,
    largest_ref,
    sums_ref,
    *,
    blocks,
    count,
    interpret,
):
    """One program per row; a row that is not wanted gets zeros. The last two results are scratch: [rows,
    slices]."""
    row = pl.program_id(0)
    wanted = wanted_ref[row]
    logprobs_ref[row] = jnp.float32(0)

    @pl.when(~wanted)
    def _():
        def one(n, carry):
            top_ids_ref[row, n], top_logprobs_ref[row, n] = jnp.int32(0), jnp.float32(0)
            return carry

        jax.lax.fori_loop(0, count, one, 0)

    @pl.when(wanted)
    def _():
        largest, sums = _slice_statistics(row, logits_ref, largest_ref, sums_ref, blocks, interpret)
        row_largest = largest.max(0)
        log_total = jnp.log((sums * exp(largest - row_largest, interpret=interpret)).sum(0))
        logprobs_ref[row] = logits_ref[row, token_ids_ref[row]] - row_largest - log_total

        def one(n, carry):
            value, token_id, carry = _next_largest(row, logits_ref, blocks, *carry)
            top_ids_ref[row, n] = token_id
            top_logprobs_ref[row, n] = value - row_largest - log_total
            return value, token_id, carry

        jax.lax.fori_loop(0, count, one, (jnp.float32(jnp.inf), jnp.int32(-1), largest))


def _slice_statistics(row, logits_ref, largest_ref, sums_ref, blocks, interpret):
    """The largest logit of every slice, and its sum of exponentials relative to that."""
    vocab_size = logits_ref.shape[1]
    total_slices = num_slices(vocab_size, blocks)

    def load(chunk):
        slices = chunk * blocks.slices_per_chunk + jnp.arange(blocks.slices_per_chunk)
        column = slices[:, None] * blocks.slice_size + jnp.arange(blocks.slice_size)[None, :]
        return plt.load(logits_ref.at[row, column], mask=column < vocab_size, other=-jnp.inf)

    def one_chunk(chunk, logits):
        # In flight while this one is added; after the last there is nothing to load.
        following = load(chunk + 1)
        slices = chunk * blocks.slices_per_chunk + jnp.arange(blocks.slices_per_chunk)
        largest = logits.max(1)
        largest_ref[row, slices] = largest
        sums_ref[row, slices] = exp(logits - finite_or_zero(largest)[:, None], interpret=interpret).sum(1)
        return following

    jax.lax.fori_loop(0, ceil_div(total_slices, blocks.slices_per_chunk), one_chunk, load(0))
    if not interpret:
        plt.debug_barrier()
    index = jnp.arange(next_power_of_two(total_slices))
    inside = index < total_slices
    return (
        plt.load(largest_ref.at[row, index], mask=inside, other=-jnp.inf),
        plt.load(sums_ref.at[row, index], mask=inside, other=0),
    )


def _next_largest(row, logits_ref, blocks, last_value, last_id, largest):
    """The largest logit after (last_value, last_id), the first of several, and what is then left of the
    slices."""
    vocab_size = logits_ref.shape[1]
    winner = jnp.argmax(largest, axis=0)
    value = largest.max(0)
    # Of a row that holds NaN it may be anything.
    winner = jnp.minimum(winner, num_slices(vocab_size, blocks) - 1)
    column = winner * blocks.slice_size + jnp.arange(blocks.slice_size)
    logits = plt.load(logits_ref.at[row, column], mask=column < vocab_size, other=-jnp.inf)
    is_it = (logits == value) & ((value < last_value) | (column > last_id))
    token_id = jnp.minimum(jnp.where(is_it, column, vocab_size - 1).min(0), vocab_size - 1)
    is_left = (logits < value) | ((logits == value) & (column > token_id))
    left = jnp.where(is_left, logits, -jnp.inf).max(0)
    return value, token_id, jnp.where(jnp.arange(largest.shape[0]) == winner, left, largest)
