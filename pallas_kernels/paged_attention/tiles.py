"""A range of a row's positions, read through its page table a tile at a time, and the attention to all of
them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.kv_pages import KVPages
from pallas_kernels.core.online_softmax import MASKED_SCORE, KernelShape, raw_scores, softmax_step
from pallas_kernels.core.precision import full_precision
from pallas_kernels.core.triton_call import ceil_div, load_rows


def kernel_shape(
    q: Array | jax.ShapeDtypeStruct, kv_pages: KVPages, *, options, interpret: bool
) -> KernelShape:
    """The shape of attention of queries [..., num_heads, head_dim] over these pages."""
    num_heads, head_dim = q.shape[-2:]
    return KernelShape(
        num_heads=num_heads,
        num_kv_heads=kv_pages.num_kv_heads,
        head_dim=head_dim,
        page_size=kv_pages.page_size,
        scale=options.scale_for(head_dim),
        sliding_window=options.sliding_window,
        soft_cap=options.soft_cap,
        precision=full_precision(q.dtype),
        interpret=interpret,
    )


class Tiles(NamedTuple):
    """A range of a row's positions, a tile at a time: where each is in the cache, by the number of its tile.

    Columns after the end of the range read the last position of the range, which was written and is finite; a
    mask must leave them out.
    """

    num_tiles: Array
    page_of: Callable  # tile -> [n] page ids
    offset_of: Callable  # tile -> [n] offsets within the page
    first_page: Array  # page_of(0), looked up as early as possible: everything else waits for it


def tiles_of_row(
    begin, end, *, tile: int, position_in_tile: Array, row, table_ref, shape: KernelShape
) -> Tiles:
    """The positions [begin, end) in tiles of `tile`; `position_in_tile` [n] is that of each column of a
    tile."""

    newest = jnp.maximum(end - 1, 0)

    def read_position(i):
        return jnp.minimum(begin + i * tile + position_in_tile, newest)

    def page_of(i):
        return table_ref[row, shape.page_index(read_position(i))]

    def offset_of(i):
        return shape.page_offset(read_position(i))

    return Tiles(ceil_div(jnp.maximum(end - begin, 0), tile), page_of, offset_of, page_of(0))


def attend_tiles(
    tiles: Tiles,
    carry,
    q: Array,
    *,
    mask_of: Callable,
    is_edge: Callable | None,
    kv_head,
    kv_ref,
    shape: KernelShape,
):
    """The softmax carry after all tiles of a range.

    mask_of(i) [queries, n] says which columns of tile i each query sees, and is_edge(i) whether any query
    does not see all of them; None for always. `kv_head` is a scalar or, per column, [n].

    There is one loop with a branch around the mask, and not a loop for each kind of tile, since a second loop
    would wait for its first keys again. The pages of a tile are looked up one tile ahead and carried: a load
    whose address is loaded in the same iteration takes two stages of the pipeline instead of one.
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
        return softmax_step(softmax, scores=scores, v=v, shape=shape), tiles.page_of(i + 1)

    return jax.lax.fori_loop(0, tiles.num_tiles, one_tile, (carry, tiles.first_page))[0]
