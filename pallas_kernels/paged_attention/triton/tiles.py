"""The loop that decode and extend share: online softmax of some queries over a range of one row's positions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.triton_call import LOG2_E, MIN_DOT_SIZE, ceil_div, load_rows, next_power_of_two

MASKED_SCORE = -1e30  # finite, so that the difference of two masked scores is 0 and not NaN


@dataclass(frozen=True)
class TileShape:
    """What both kernels know about a call when they are compiled."""

    group: int
    head_dim: int
    page_size: int
    tile: int
    scale: float
    sliding_window: int | None
    soft_cap: float | None
    precision: jax.lax.Precision | None

    @property
    def padded_dim(self) -> int:
        return max(MIN_DOT_SIZE, next_power_of_two(self.head_dim))

    @property
    def padded_group(self) -> int:
        return next_power_of_two(self.group)


def tile_shape(q: Array, kv_pages: Array, tile: int, options) -> TileShape:
    num_heads, head_dim = q.shape[1:]
    return TileShape(
        group=num_heads // kv_pages.shape[3],
        head_dim=head_dim,
        page_size=kv_pages.shape[2],
        tile=tile,
        scale=head_dim**-0.5 if options.scale is None else options.scale,
        sliding_window=options.sliding_window,
        soft_cap=options.soft_cap,
        # Without it a float32 dot is rounded to TF32 on tensor cores.
        precision=jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None,
    )


def attend_tiles(q, query_position, begin, end, kv_ref, table_ref, row, kv_head, shape):
    """Online softmax of q [queries, padded_dim] over the positions [begin, end) of a row.

    query_position [queries] is the newest position that each query sees. Returns the sum of weighted values, the
    maximum score (in units of log 2) and the sum of weights, all float32 and relative to that maximum.
    """
    queries = q.shape[0]

    def one_tile(i, carry):
        acc, top, total = carry
        position = begin + i * shape.tile + jnp.arange(shape.tile)
        inside = position < end
        position = jnp.minimum(position, end - 1)  # a position that was written, and finite
        page, offset = table_ref[row, position // shape.page_size], position % shape.page_size
        sizes = {"size": shape.head_dim, "padded_size": shape.padded_dim}

        k = load_rows(kv_ref, 0, page, offset, kv_head, **sizes)
        scores = _soft_capped(plt.dot(q, k.T, precision=shape.precision) * shape.scale, shape.soft_cap) * LOG2_E
        seen = inside[None, :] & (position[None, :] <= query_position[:, None])
        if shape.sliding_window is not None:
            seen &= position[None, :] > query_position[:, None] - shape.sliding_window
        scores = jnp.where(seen, scores, MASKED_SCORE)

        new_top = jnp.maximum(top, scores.max(1))
        weight = jnp.where(seen, jnp.exp2(scores - new_top[:, None]), 0)
        rescale = jnp.exp2(top - new_top)
        v = load_rows(kv_ref, 1, page, offset, kv_head, **sizes)
        acc = acc * rescale[:, None] + plt.dot(weight.astype(v.dtype), v, precision=shape.precision)
        return acc, new_top, total * rescale + weight.sum(1)

    start = (
        jnp.zeros((queries, shape.padded_dim), jnp.float32),
        jnp.full((queries,), MASKED_SCORE, jnp.float32),
        jnp.zeros((queries,), jnp.float32),
    )
    num_tiles = ceil_div(jnp.maximum(end - begin, 0), shape.tile)
    return jax.lax.fori_loop(0, num_tiles, one_tile, start)


def _soft_capped(scores: Array, soft_cap: float | None) -> Array:
    """soft_cap * tanh(scores / soft_cap), with tanh(x) = 1 - 2 / (exp(2x) + 1), which has no overflow to NaN."""
    if soft_cap is None:
        return scores
    return soft_cap * (1 - 2 / (jnp.exp2(scores * (2 * LOG2_E / soft_cap)) + 1))
