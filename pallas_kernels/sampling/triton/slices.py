"""The first kernel reads every logit once, and stores the statistics of each slice that the choice of a token
needs."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.core.exponential import finite_or_zero
from pallas_kernels.sampling.triton.row import NUM_ROW_OPERANDS, Row


def slices_kernel(*refs, blocks, interpret):
    """`largest` is of what may be chosen, `weights` is their sum (see `_weights`), and `fault` is 1 if any
    logit is not finite."""
    row = Row.load(pl.program_id(1), refs[:NUM_ROW_OPERANDS], interpret=interpret)
    largest_ref, weights_ref, fault_ref = refs[NUM_ROW_OPERANDS:]
    slices = pl.program_id(0) * blocks.slices_per_program + jnp.arange(blocks.slices_per_program)
    column = slices[:, None] * blocks.slice_size + jnp.arange(blocks.slice_size)[None, :]
    logits = row.logits(column)
    # A comparison with NaN is false; a maximum on a GPU would pass over it.
    is_finite = jnp.abs(logits) < jnp.inf
    fault_ref[row.index, slices] = jnp.where(is_finite | (column >= row.vocab_size), 0.0, 1.0).max(1)
    allowed = row.without_blocked(logits, column)
    largest = allowed.max(1)
    largest_ref[row.index, slices] = largest
    weights_ref[row.index, slices] = _weights(row, allowed, finite_or_zero(largest))


def _weights(row, allowed, largest):
    """The sum of each slice's weights relative to its largest, for rows that draw from all tokens or whose
    top_p is of all tokens. Others need nothing."""
    is_needed = row.is_random & ~(row.is_filtered & (row.has_top_k | ~row.has_top_p))
    return jax.lax.cond(
        is_needed, lambda: row.weight(allowed, largest[:, None]).sum(1), lambda: jnp.zeros_like(largest)
    )
