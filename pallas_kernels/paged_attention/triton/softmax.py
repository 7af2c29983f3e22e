"""What the kernels share: the description of a call, loads through a page table, and one step of the online softmax."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import LOG2_E, MIN_DOT_SIZE, ceil_div, exp2_scaled, load_rows, next_power_of_two

# Finite, so that the difference of two masked scores is 0 and not NaN; and a power of two, so that the product with the
# scale is exact and that difference stays 0 where multiplication and subtraction are fused.
MASKED_SCORE = -(2.0**100)


@dataclass(frozen=True)
class KernelShape:
    """What a kernel knows about a call when it is compiled."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    scale: float
    sliding_window: int | None
    soft_cap: float | None
    precision: jax.lax.Precision | None
    interpret: bool

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def padded_dim(self) -> int:
        return max(MIN_DOT_SIZE, next_power_of_two(self.head_dim))

    @property
    def log2_scale(self) -> float:
        """exp(s) of a score s that `raw_scores` gave is exp2(s * log2_scale)."""
        return LOG2_E * (self.scale if self.soft_cap is None else self.soft_cap)

    def page_index(self, position):
        """Which entry of the page table holds a position. Positions are not negative, which `//` would care for."""
        if self.page_size & (self.page_size - 1) == 0:
            return jax.lax.shift_right_logical(position, jnp.int32(self.page_size.bit_length() - 1))
        return jax.lax.div(position, jnp.int32(self.page_size))

    def page_offset(self, position):
        """Where in its page a position is."""
        if self.page_size & (self.page_size - 1) == 0:
            return position & (self.page_size - 1)
        return jax.lax.rem(position, jnp.int32(self.page_size))

    def window_begin(self, position):
        """The oldest position that a query at `position` sees."""
        return 0 if self.sliding_window is None else jnp.maximum(0, position - self.sliding_window + 1)


def kernel_shape(q: Array | jax.ShapeDtypeStruct, kv_pages: Array, options, interpret: bool) -> KernelShape:
    """q [..., num_heads, head_dim], kv_pages [2, num_pages, page_size, num_kv_heads, head_dim]."""
    num_heads, head_dim = q.shape[-2:]
    return KernelShape(
        num_heads=num_heads,
        num_kv_heads=kv_pages.shape[3],
        head_dim=head_dim,
        page_size=kv_pages.shape[2],
        scale=head_dim**-0.5 if options.scale is None else options.scale,
        sliding_window=options.sliding_window,
        soft_cap=options.soft_cap,
        # Without it a float32 dot is rounded to TF32 on tensor cores.
        precision=jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None,
        interpret=interpret,
    )


def raw_scores(q: Array, k: Array, shape: KernelShape) -> Array:
    """q . k, or tanh(scale * q . k / soft_cap) with a soft cap; both before their positive factor `log2_scale`."""
    return soft_capped(plt.dot(q, k.T, precision=shape.precision), shape)


def soft_capped(scores: Array, shape: KernelShape) -> Array:
    """The scores, or with a soft cap tanh(x) of x = scale * scores / soft_cap.

    tanh(x) = 1 - 2 / (exp(2x) + 1), which overflows to no NaN.
    """
    if shape.soft_cap is None:
        return scores
    return 1 - 2 / (jnp.exp2(scores * (2 * LOG2_E * shape.scale / shape.soft_cap)) + 1)


def softmax_start(num_queries: int, sink: Array | None, has_sink, shape: KernelShape) -> tuple[Array, Array, Array]:
    """The carry (accumulator, maximum in units of log 2, sum) before the first position.

    A sink [num_queries] is a score without a value; it counts where `has_sink`, once per query.
    """
    acc = jnp.zeros((num_queries, shape.padded_dim), jnp.float32)
    if sink is None:
        return acc, jnp.full((num_queries,), MASKED_SCORE, jnp.float32), jnp.zeros((num_queries,), jnp.float32)
    total = jnp.full((num_queries,), jnp.where(has_sink, jnp.float32(1), jnp.float32(0)))
    return acc, jnp.where(has_sink, sink.astype(jnp.float32) * LOG2_E, MASKED_SCORE), total


def softmax_step(carry: tuple[Array, Array, Array], scores: Array, v: Array, shape: KernelShape):
    """The carry after `scores` [queries, n] (from `raw_scores`, MASKED_SCORE where unseen) of `v` [n, padded_dim].

    Where a query has seen nothing yet, masked scores weigh 1 and not 0: the first score that counts wipes that out.
    """
    acc, top, total = carry
    new_top = jnp.maximum(top, scores.max(1) * shape.log2_scale)
    shift = jnp.broadcast_to(new_top[:, None], scores.shape)
    weight = exp2_scaled(scores, shape.log2_scale, shift, interpret=shape.interpret)
    rescale = jnp.exp2(top - new_top)
    acc = acc * rescale[:, None] + plt.dot(weight.astype(v.dtype), v, precision=shape.precision)
    return acc, new_top, total * rescale + weight.sum(1)


def softmax_step_of_one(carry: tuple[Array, Array, Array], score: Array, v: Array, shape: KernelShape):
    """The carry after one position, of which each query has a score (as `raw_scores` gives it) and a value:
    [queries] and [queries, padded_dim]."""
    acc, top, total = carry
    score = score * shape.log2_scale
    new_top = jnp.maximum(top, score)
    weight, rescale = jnp.exp2(score - new_top), jnp.exp2(top - new_top)
    return acc * rescale[:, None] + weight[:, None] * v.astype(jnp.float32), new_top, total * rescale + weight


class Tiles(NamedTuple):
    """A range of a row's positions, a tile at a time: where each is in the cache, by the number of its tile.

    Positions from the end of the range on, which are for a mask to leave out, are read as the last before it, which was
    written and is finite.
    """

    num_tiles: Array
    page_of: Callable  # tile -> [n] page ids
    offset_of: Callable  # tile -> [n] places within the page
    first_page: Array  # page_of(0), looked up as early as possible: everything else waits for it


def tiles_of_row(begin, end, tile: int, position_in_tile: Array, row, table_ref, shape: KernelShape) -> Tiles:
    """The positions [begin, end) in tiles of `tile`; `position_in_tile` [n] is that of each column of a tile."""

    newest = jnp.maximum(end - 1, 0)

    def read_position(i):
        return jnp.minimum(begin + i * tile + position_in_tile, newest)

    def page_of(i):
        return table_ref[row, shape.page_index(read_position(i))]

    def offset_of(i):
        return shape.page_offset(read_position(i))

    return Tiles(ceil_div(jnp.maximum(end - begin, 0), tile), page_of, offset_of, page_of(0))


def attend_tiles(tiles: Tiles, carry, q: Array, mask_of: Callable, is_edge: Callable | None, kv_head, kv_ref, shape):
    """The softmax carry after all tiles of a range.

    mask_of(i) [queries, n] says which columns of tile i each query sees, and is_edge(i) whether any query does not see
    all of them; None for always. `kv_head` is a scalar or, per column, [n].

    One loop with a branch around the mask, and not a loop for each kind of tile: a second loop would wait for its first
    keys anew. The pages of a tile are looked up one tile ahead and carried: a load whose address is loaded in the same
    iteration takes two stages of the pipeline in place of one.
    """
    sizes = {"size": shape.head_dim, "padded_size": shape.padded_dim}

    def one_tile(i, carry):
        softmax, page = carry
        offset = tiles.offset_of(i)
        scores = raw_scores(q, load_rows(kv_ref, 0, page, offset, kv_head, **sizes), shape)

        def masked(scores):
            return jnp.where(mask_of(i), scores, MASKED_SCORE)

        scores = masked(scores) if is_edge is None else jax.lax.cond(is_edge(i), masked, lambda x: x, scores)
        v = load_rows(kv_ref, 1, page, offset, kv_head, **sizes)
        return softmax_step(softmax, scores, v, shape), tiles.page_of(i + 1)

    return jax.lax.fori_loop(0, tiles.num_tiles, one_tile, (carry, tiles.first_page))[0]


def normalized(acc: Array, total: Array) -> Array:
    """The weighted mean; zeros where nothing was seen."""
    return acc / jnp.where(total == 0, 1, total)[:, None]
