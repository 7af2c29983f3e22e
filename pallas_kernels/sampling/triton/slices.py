"""The first kernel reads every logit once, and says of each slice of a row what the choice of a token needs of it."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.sampling.triton.row import NUM_ROW_OPERANDS, Row, finite_or_zero


def slices_kernel(*refs, blocks, interpret):
    """`largest` is of what may be chosen, `fault` is 1 if any logit is not finite, and `detail` depends on the row (see
    `_detail`)."""
    row = Row.load(pl.program_id(1), refs[:NUM_ROW_OPERANDS], interpret=interpret)
    largest_ref, detail_ref, fault_ref = refs[NUM_ROW_OPERANDS:]
    slices = pl.program_id(0) * blocks.slices_per_program + jnp.arange(blocks.slices_per_program)
    column = slices[:, None] * blocks.slice_size + jnp.arange(blocks.slice_size)[None, :]
    logits = row.logits(column)
    is_finite = jnp.abs(logits) < jnp.inf  # a comparison with NaN is false; a maximum on a GPU would pass over it
    fault_ref[row.index, slices] = jnp.where(is_finite | (column >= row.vocab_size), 0.0, 1.0).max(1)
    allowed = row.without_blocked(logits, column)
    largest = allowed.max(1)
    largest_ref[row.index, slices] = largest
    detail_ref[row.index, slices] = _detail(row, allowed, finite_or_zero(largest), column)


def _detail(row, allowed, largest, column):
    """Relative to each slice's largest logit: the best score of a row that draws from all tokens, the sum of weights of
    one whose top_p is of all tokens. Others need nothing."""
    needs_sum = row.is_filtered & row.has_top_p & ~row.has_top_k
    needs_score = row.is_random & ~row.is_filtered
    return jax.lax.cond(
        needs_score,
        lambda: row.with_key().score(allowed, largest[:, None], column).max(1),
        lambda: jax.lax.cond(
            needs_sum, lambda: row.weight(allowed, largest[:, None]).sum(1), lambda: jnp.zeros_like(largest)
        ),
    )
