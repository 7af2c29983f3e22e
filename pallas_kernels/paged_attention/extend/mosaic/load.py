"""The warpgroup that loads: queries, keys and values of each piece, as far ahead as shared memory has
room."""

import jax.numpy as jnp
from jax import lax

from pallas_kernels.paged_attention.extend.mosaic import copies
from pallas_kernels.paged_attention.extend.mosaic.barriers import arrive_once, keep_together, wait
from pallas_kernels.paged_attention.extend.mosaic.pieces import for_each_piece
from pallas_kernels.paged_attention.extend.mosaic.shape import (
    NUM_QUERY_TILES,
    NUM_STAGES,
    Barriers,
    Refs,
    Shape,
    Work,
    as_int,
    div,
    rem,
    slot_and_phase,
    when,
)


def load_all(refs: Refs, shape: Shape) -> None:
    """Tiles of a piece from the newest to the oldest. The pages of a tile are looked up one tile ahead."""

    def one_piece(n, work: Work, num_loaded, num_tails):
        _load_queries(refs, n, work, shape)
        num_tiles = work.num_tiles(shape)
        has_tail = num_tiles * shape.tile > jnp.where(num_tiles > 0, work.length, 0)

        def one_tile(i, pages):
            next_pages = _rows_of_tile(refs, work, num_tiles - 2 - i, shape)
            tail = _Tail((i == 0) & has_tail, rem(num_tails, 2), work.length - (num_tiles - 1) * shape.tile)
            _load_tile(refs, num_loaded + i, work, pages, tail, shape)
            return next_pages

        lax.fori_loop(0, num_tiles, one_tile, _rows_of_tile(refs, work, num_tiles - 1, shape))
        return num_loaded + num_tiles, num_tails + as_int(has_tail)

    for_each_piece(refs, shape, one_piece, jnp.int32(0), jnp.int32(0))


class _Tail:
    """A tile that goes on after its row's last position: 1 if it is one, the phase of `v_tail` in which it
    arrives, and where in it the row ends."""

    def __init__(self, is_one, phase, first_row):
        self.is_one, self.phase, self.first_row = is_one, phase, first_row


def _load_queries(refs: Refs, n, work: Work, shape: Shape) -> None:
    slot, phase = slot_and_phase(n, NUM_QUERY_TILES)
    wait(refs.barriers, Barriers.q_free + slot, 1 - phase)
    keep_together()  # pieces of padding alone have no tiles, at which the warps would meet
    copies.start_queries(
        refs.q,
        refs.q_tiles.at[slot],
        refs.barriers,
        barrier=Barriers.q_full + slot,
        token=work.token,
        head=work.head,
        shape=(shape.block_tokens, shape.heads),
    )


def _rows_of_tile(refs: Refs, work: Work, tile, shape: Shape) -> tuple:
    """The first row of `kv` of each copy of a tile of keys. Copies after the row's end read its last page
    again."""
    last_copy = div(jnp.maximum(work.length - 1, 0), shape.rows_per_copy) * shape.rows_per_copy
    rows = []
    for offset in range(0, shape.tile, shape.rows_per_copy):
        position = jnp.clip(tile * shape.tile + offset, 0, last_copy)
        page = refs.table[work.row, div(position, shape.page_size)]
        rows.append(page * shape.page_size + rem(position, shape.page_size))
    return tuple(rows)


def _load_tile(refs: Refs, count, work: Work, key_rows, tail: _Tail, shape: Shape) -> None:
    stage, phase = slot_and_phase(count, NUM_STAGES)
    column = div(work.head, shape.num_heads // shape.num_kv_heads) * shape.head_dim

    def start(tiles, barrier, first_rows):
        copies.start_pages(
            refs.kv,
            tiles.at[stage],
            refs.barriers,
            barrier=barrier,
            first_rows=first_rows,
            column=column,
            rows=shape.rows_per_copy,
        )

    wait(refs.barriers, Barriers.k_free + stage, 1 - phase)
    keep_together()  # a tile of one or two pages has copies for as many warps
    start(refs.k_tiles, Barriers.k_full + stage, key_rows)
    wait(refs.barriers, Barriers.v_free + stage, 1 - phase)
    value_rows = [row + shape.num_pages * shape.page_size for row in key_rows]
    start(refs.v_tiles, jnp.where(tail.is_one, Barriers.v_tail, Barriers.v_full + stage), value_rows)

    @when(tail.is_one)
    def _() -> None:
        """Writes zeros after the row's end before a matmul reads the tile: a NaN there times a weight of 0
        would be NaN."""
        wait(refs.barriers, Barriers.v_tail, tail.phase)
        copies.zero_rows(refs.v_tiles.at[stage], tail.first_row)
        arrive_once(refs.barriers, Barriers.v_full + stage)
