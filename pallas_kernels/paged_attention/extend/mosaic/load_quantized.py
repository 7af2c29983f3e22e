"""The warpgroup that loads, of a cache in 8 bits: a tile arrives as it is stored, and is converted once for
both warpgroups that attend, which see what they see of a cache in 16 bits.

There is one place for keys and one for values that arrive; as soon as one has been converted, the next is on
its way.
"""

import jax.numpy as jnp
from jax import lax

from pallas_kernels.core.heads import KEYS, VALUES
from pallas_kernels.paged_attention.extend.mosaic import convert, copies
from pallas_kernels.paged_attention.extend.mosaic.barriers import arrive_once, wait
from pallas_kernels.paged_attention.extend.mosaic.load import load_queries, rows_of_tile
from pallas_kernels.paged_attention.extend.mosaic.pieces import for_each_piece
from pallas_kernels.paged_attention.extend.mosaic.shape import (
    NUM_STAGES,
    Barriers,
    QuantizedBarriers,
    QuantizedPagesRefs,
    Shape,
    Work,
    div,
    rem,
    slot_and_phase,
    when,
)

STAGED = {KEYS: QuantizedBarriers.k_staged, VALUES: QuantizedBarriers.v_staged}
FREE = {KEYS: Barriers.k_free, VALUES: Barriers.v_free}
FULL = {KEYS: Barriers.k_full, VALUES: Barriers.v_full}


def load_all(refs: QuantizedPagesRefs, shape: Shape) -> None:
    """Tiles of a piece from the newest to the oldest. The pages of a tile are looked up two tiles ahead."""

    def one_piece(n, work: Work, num_loaded):
        load_queries(refs, n, work, shape)
        num_tiles = work.num_tiles(shape)
        newest = rows_of_tile(refs, work, num_tiles - 1, shape)

        @when(num_tiles > 0)
        def _() -> None:
            for kind in (KEYS, VALUES):
                _start(refs, kind, work, newest, shape)

        def one_tile(i, next_rows):
            tile = num_tiles - 1 - i
            for kind in (KEYS, VALUES):
                _convert(refs, kind, num_loaded + i, work.length - tile * shape.tile, shape)

                @when(tile > 0)
                def _(kind=kind) -> None:
                    _start(refs, kind, work, next_rows, shape)

            return rows_of_tile(refs, work, tile - 2, shape)

        lax.fori_loop(0, num_tiles, one_tile, rows_of_tile(refs, work, num_tiles - 2, shape))
        return (num_loaded + num_tiles,)

    for_each_piece(refs, shape, one_piece, jnp.int32(0))


def _start(refs: QuantizedPagesRefs, kind: int, work: Work, key_rows: tuple, shape: Shape) -> None:
    """Starts copying a tile to where it is converted."""
    kv_head = div(work.head, shape.num_heads // shape.num_kv_heads)
    rows = [row + kind * shape.num_pages * shape.page_size for row in key_rows]
    first_scales = [
        (div(row, shape.page_size) * shape.num_kv_heads + kv_head) * shape.page_size
        + rem(row, shape.page_size)
        for row in rows
    ]
    copies.start_staging(
        (refs.kv, refs.scales),
        (refs.staged.at[kind], refs.staged_scales.at[kind]),
        refs.barriers,
        barrier=STAGED[kind],
        first_rows=rows,
        first_scales=first_scales,
        column=kv_head * shape.head_dim,
        rows=shape.rows_per_copy,
    )


def _convert(refs: QuantizedPagesRefs, kind: int, count, num_rows, shape: Shape) -> None:
    """Converts the staged tile, number `count` of this program. Rows from `num_rows` on are after the end of
    their sequence, and become zeros: a NaN there times a weight of 0 would be NaN."""
    stage, phase = slot_and_phase(count, NUM_STAGES)
    wait(refs.barriers, STAGED[kind], rem(count, 2))
    wait(refs.barriers, FREE[kind] + stage, 1 - phase)
    tile = (refs.k_tiles if kind == KEYS else refs.v_tiles).at[stage]

    def some_rows(i, carry):
        first_row = i * convert.ROWS_AT_ONCE
        convert.convert_rows(
            refs.staged.at[kind], refs.staged_scales.at[kind], tile, first_row, num_rows, shape
        )
        return carry

    lax.fori_loop(0, shape.tile // convert.ROWS_AT_ONCE, some_rows, jnp.int32(0))
    convert.commit()
    arrive_once(refs.barriers, FULL[kind] + stage)
