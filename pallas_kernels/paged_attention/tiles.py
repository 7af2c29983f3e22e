"""A range of a row's positions, read through its page table a tile at a time, and the attention to all of
them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.heads import KEYS, VALUES
from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.kv_refs import StoredPages, dot_dtype
from pallas_kernels.core.online_softmax import MASKED_SCORE, KernelShape, raw_scores, softmax_step
from pallas_kernels.core.triton_call import ceil_div


def kernel_shape(
    q: Array | jax.ShapeDtypeStruct, kv_pages: AnyKVPages, *, options, interpret: bool
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
        dot_dtype=dot_dtype(kv_pages),
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
    pages: StoredPages,
    shape: KernelShape,
):
    """The softmax carry after all tiles of a range.

    mask_of(i) [queries, n] says which columns of tile i each query sees, and is_edge(i) whether any query
    does not see all of them; None for always. `kv_head` is a scalar or, per column, [n].

    There is one loop with a branch around the mask, and not a loop for each kind of tile, since a second loop
    would wait for its first keys again. The pages of a tile are looked up one tile ahead and carried: a load
    whose address is loaded in the same iteration takes two stages of the pipeline instead of one.
    """
    q, unit = q.astype(shape.dot_dtype), pages.weight_unit(shape)

    def one_tile(i, carry):
        softmax, page = carry
        offset = tiles.offset_of(i)
        scores = raw_scores(q, pages.load(KEYS, page, offset, kv_head, shape=shape), shape)

        def masked(scores):
            return jnp.where(mask_of(i), scores, MASKED_SCORE)

        scores = masked(scores) if is_edge is None else jax.lax.cond(is_edge(i), masked, lambda x: x, scores)
        v = pages.load(VALUES, page, offset, kv_head, shape=shape)
        return softmax_step(softmax, scores=scores, v=v, shape=shape), tiles.page_of(i + 1)

    carry = _in_units(carry, 1 / unit)
    carry, _ = jax.lax.fori_loop(0, tiles.num_tiles, one_tile, (carry, tiles.first_page))
    return _in_units(carry, unit)


def _in_units(carry, factor: float):
    """The carry with its weighted sum times a power of two."""
    acc, top, total = carry
    return (acc, top, total) if factor == 1 else (acc * factor, top, total)
