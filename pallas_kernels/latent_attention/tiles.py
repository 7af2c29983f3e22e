"""Queries of one row against tiles of its cache, in kernels on Triton.

A tile of the cache is read into shared memory once and used twice: all its columns as keys, the latent ones
as values. With 64 queries a program, Hopper's own matrix instruction (wgmma) does both matmuls, and shared
memory is the bottleneck: the queries and two tiles of 64 positions fill it. Two branches are there for their
effect on Triton's compiler:

- Around the mask, which all tiles but the last skip. Where a matmul feeds another one, Triton gives all its
  warps rows and none of them columns; with 64 rows, both groups of four warps would compute all the scores.
  It does not see the other matmul beyond a branch.
- With `early_loads`, around the softmax and the values; it is gone in the compiled kernel. Triton starts the
  loads of the next tile after the matmuls of this one, which leaves only the values' to hide them. It puts a
  branch that nothing waits for after the loads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.online_softmax import MASKED_SCORE, KernelShape, soft_capped
from pallas_kernels.core.triton_call import ceil_div, exp2_scaled
from pallas_kernels.latent_attention.tuning import MlaBlocks


class Seen(NamedTuple):
    """The positions [begin, end) of a row, of which there is at least one, and which of them a query sees:
    those below `ends`, one number for all queries or [queries, 1]. No query's is below `all_see`."""

    begin: Array
    end: Array
    ends: Array
    all_see: Array


def attend(q, row_id, seen: Seen, kv_ref, table_ref, shape: KernelShape, blocks: MlaBlocks):
    """The online softmax of queries of one row over what they see: the unnormalized sum of values, the
    maximum score in units of log 2 and the sum of weights relative to it. A query that sees nothing gets
    numbers that mean nothing, and are finite."""
    q_latent, q_rope = q
    latent_dim, rope_dim = q_latent.shape[1], q_rope.shape[1]
    # The maximum tells the compiler that there is at least 1: if it could skip the loop, it would wait for
    # each matmul inside.
    num_tiles = jnp.maximum(ceil_div(seen.end - seen.begin, blocks.tile), 1)

    def one_tile(i, carry):
        tile_begin = seen.begin + i * blocks.tile
        # The last position for columns after the end: it was written, and is finite.
        position = jnp.minimum(tile_begin + jnp.arange(blocks.tile), seen.end - 1)
        page = table_ref[row_id, shape.page_index(position)]
        offset = shape.page_offset(position)
        latent = kv_ref[page, offset, pl.ds(0, latent_dim)]
        rope = kv_ref[page, offset, pl.ds(latent_dim, rope_dim)]
        scores = _scores(q_latent, latent, shape) + _scores(q_rope, rope, shape)

        def values(acc, top, total):
            weight, rescale, top, total = _softmax(scores, tile_begin, seen, top, total, shape)
            acc = acc * rescale[:, None] + plt.dot(
                weight.astype(latent.dtype), latent, precision=shape.precision
            )
            return acc, top, total

        if not blocks.early_loads:
            return values(*carry)
        # The loop's own condition, always true: see above.
        return jax.lax.cond(i < num_tiles, values, lambda *carry: carry, *carry)

    start = (
        jnp.zeros((blocks.queries, latent_dim), jnp.float32),
        jnp.full((blocks.queries,), MASKED_SCORE, jnp.float32),
        jnp.zeros((blocks.queries, blocks.tile), jnp.float32),
    )
    acc, top, total = jax.lax.fori_loop(0, num_tiles, one_tile, start)
    return acc, top, total.sum(1)


def _scores(q: Array, k: Array, shape: KernelShape) -> Array:
    """q . k, in a form that Triton does not merge with the sum that it is a part of."""
    scores = plt.dot(q, k.T, precision=shape.precision)
    if shape.interpret:
        return scores
    result = jax.ShapeDtypeStruct(scores.shape, scores.dtype)
    return plt.elementwise_inline_asm(
        "", args=[scores], constraints="=f,0", pack=1, result_shape_dtypes=[result]
    )[0]


def _softmax(scores, tile_begin, seen: Seen, top, total, shape: KernelShape):
    """One step: the weights of the values, the factor of what was summed before, and the new maximum and
    sums.

    `total` [queries, tile] sums the weights per column, and its columns are summed after the last tile: a sum
    over them would cross the warps.
    """
    tile = scores.shape[1]
    position = tile_begin + jnp.arange(tile)
    scores = jax.lax.cond(
        tile_begin + tile > seen.all_see,
        lambda scores: jnp.where(position[None, :] < seen.ends, scores, MASKED_SCORE),
        lambda scores: scores,
        soft_capped(scores, shape),
    )
    new_top = jnp.maximum(top, scores.max(1) * shape.log2_scale)
    shift = jnp.broadcast_to(new_top[:, None], scores.shape)
    weight = exp2_scaled(scores, shape.log2_scale, shift, interpret=shape.interpret)
    rescale = exp2_scaled(top, 1.0, new_top, interpret=shape.interpret)
    return weight, rescale, new_top, total * rescale[:, None] + weight


def mean(acc: Array, total: Array) -> Array:
    """The weighted mean; zeros where nothing was seen. One division a head, and not one an element."""
    return acc * (1 / jnp.where(total == 0, 1, total))[:, None]
