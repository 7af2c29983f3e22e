"""The second kernel chooses a token of each row, from what the first has found out about the row's slices.

Without filters a slice is drawn by its weight, and the token from the slice. With filters most slices cannot
matter:

    bound        a logit and a weight that the thresholds cannot be below, from the slices' statistics alone
    slices       those whose largest logit reaches the bound
    candidates   their logits that do; if those are too many, all of these slices replace them
    thresholds   of top_k, then of top_p, exactly
    token        the best score of what is kept
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from pallas_kernels.core.triton_call import next_power_of_two
from pallas_kernels.sampling.triton import thresholds
from pallas_kernels.sampling.triton.elements import Candidates, Elements, Slices
from pallas_kernels.sampling.triton.row import NUM_ROW_OPERANDS, Row
from pallas_kernels.sampling.tuning import num_slices


@dataclass(frozen=True)
class Scratch:
    """The values that a program leaves for its other threads: [rows, ...] arrays in global memory."""

    order_ref: Any
    logits_ref: Any
    columns_ref: Any


def choice_kernel(*refs, blocks, interpret):
    """One program per row."""
    row = Row.load(pl.program_id(0), refs[:NUM_ROW_OPERANDS], interpret=interpret).with_key()
    largest_ref, weights_ref, fault_ref, token_ref, is_finite_ref, *scratch_refs = refs[NUM_ROW_OPERANDS:]
    index = jnp.arange(next_power_of_two(num_slices(row.vocab_size, blocks)))
    inside = index < num_slices(row.vocab_size, blocks)
    largest, sums, fault = (
        plt.load(ref.at[row.index, index], mask=inside, other=other)
        for ref, other in ((largest_ref, -jnp.inf), (weights_ref, 0), (fault_ref, 0))
    )
    token = jax.lax.cond(
        row.is_filtered,
        lambda: _filtered(row, largest, sums, Scratch(*scratch_refs), blocks),
        lambda: _unfiltered(row, largest, sums, blocks),
    )
    # Of a row that is not finite it may be anything.
    token_ref[row.index] = jnp.clip(token, 0, row.vocab_size - 1)
    is_finite_ref[row.index] = fault.max(0) == 0


def _unfiltered(row, largest, sums, blocks):
    """The token of the largest logit, or one drawn in two steps: its slice, and then it."""
    row_largest = largest.max(0)
    of_slices = jax.lax.cond(
        row.is_random, lambda: row.slice_score(largest, row_largest, sums), lambda: largest
    )
    first = jnp.argmax(of_slices, axis=0) * blocks.slice_size
    column = first + jnp.arange(blocks.slice_size)
    logits = row.allowed(column)
    scores = jax.lax.cond(row.is_random, lambda: row.score(logits, row_largest, column), lambda: logits)
    return first + jnp.argmax(scores, axis=0)


def _filtered(row, largest, sums, scratch, blocks):
    row_largest = largest.max(0)
    weights = row.weight(largest, row_largest)  # of the slices' largest logits
    sums = sums * weights
    bound = thresholds.bound(row, largest, sums, blocks.slice_size)
    slices = _slices_that_matter(row, bound.keeps(largest, weights), scratch, blocks)
    count = _collect(row, slices, row_largest, bound, scratch, blocks.max_candidates)
    candidates = Candidates(
        row=row,
        logits_ref=scratch.logits_ref,
        columns_ref=scratch.columns_ref,
        count=count,
        size=blocks.candidate_chunk,
    )

    def token_of(elements):
        kept = thresholds.exact(row, elements, row_largest, bound, sums.sum(0))
        return _draw(row, elements, row_largest, kept)

    if row.vocab_size <= blocks.max_candidates:
        return token_of(candidates)
    return jax.lax.cond(
        count <= blocks.max_candidates, lambda: token_of(candidates), lambda: token_of(slices)
    )


def _slices_that_matter(row, matters, scratch, blocks):
    """The slices that matter: their numbers go to the front of the row's order, all others after them."""
    number = jnp.arange(matters.shape[0])
    rank = jnp.cumsum(matters.astype(jnp.int32), axis=0) - 1
    scratch.order_ref[row.index, jnp.where(matters, rank, matters.shape[0] + number)] = number
    _wait_for_stores(row)
    count = matters.astype(jnp.int32).sum(0)
    return Slices(
        row=row,
        order_ref=scratch.order_ref,
        count=count,
        slice_size=blocks.slice_size,
        slices_per_chunk=blocks.slices_per_chunk,
    )


def _collect(row, slices, row_largest, bound, scratch, max_stored):
    """The number of logits that reach the bound, of which the first `max_stored` are in the scratch."""
    lane = jnp.arange(slices.size)

    def one_chunk(chunk, count):
        logits, column = slices.load(chunk)
        reaches = bound.keeps(logits, row.weight(logits, row_largest))
        index = count + jnp.cumsum(reaches.astype(jnp.int32), axis=0) - 1
        is_stored = reaches & (index < max_stored)
        index = jnp.where(is_stored, index, max_stored + lane)  # distinct also where nothing is stored
        plt.store(scratch.logits_ref.at[row.index, index], logits, mask=is_stored)
        plt.store(scratch.columns_ref.at[row.index, index], column, mask=is_stored)
        return count + reaches.astype(jnp.int32).sum(0)

    count = jax.lax.fori_loop(0, slices.num_chunks, one_chunk, jnp.int32(0))
    _wait_for_stores(row)
    return count


def _wait_for_stores(row):
    if not row.interpret:
        plt.debug_barrier()


def _draw(row, elements: Elements, row_largest, kept):
    """The token of the best score, the first of several, among those that both thresholds keep."""

    def one_chunk(chunk, best):
        logits, column = elements.load(chunk)
        keeps = kept.keeps(logits, row.weight(logits, row_largest))
        score = jnp.where(keeps, row.score(logits, row_largest, column), -jnp.inf)
        is_better = score > best[0]
        return jnp.where(is_better, score, best[0]), jnp.where(is_better, column, best[1])

    nothing = jnp.full((elements.size,), -jnp.inf), jnp.full((elements.size,), row.vocab_size)
    score, column = jax.lax.fori_loop(0, elements.num_chunks, one_chunk, nothing)
    return jnp.where(score == score.max(0), column, row.vocab_size).min(0)
