"""The parts of a program of decode: the queries that it serves, their attention over cached positions, its
results.

A program serves several KV heads of one row at once. The rows of its dots are the query heads of those KV
heads, and the columns are (position, KV head) pairs in the order in which they lie in memory: so a tile is
read in long contiguous pieces, and rows that padding to a dot's 16 would waste do work. A column of another
head than the row's is masked. For two KV heads a, b of two query heads each:

            p0.a p0.b p1.a p1.b
    q0 (a)   x         x
    q1 (a)   x         x
    q2 (b)        x         x
    q3 (b)        x         x
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.epilogues import store_attention
from pallas_kernels.core.kv_refs import StoredPages
from pallas_kernels.core.online_softmax import KernelShape
from pallas_kernels.core.splits import merge_splits
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, next_power_of_two
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks
from pallas_kernels.paged_attention.tiles import Tiles, attend_tiles, tiles_of_row


class DecodeQueries(NamedTuple):
    """The query heads of a program: the rows of its dots."""

    first_kv_head: Array
    head: Array
    is_query: Array  # whether it is one, and not padding
    any_head: Array  # the head, and for padding one that there is


def decode_queries(head_block, shape: KernelShape, blocks: DecodeBlocks) -> DecodeQueries:
    """The query heads of the KV heads of a block."""
    first_kv_head = head_block * blocks.kv_heads
    num_queries = blocks.kv_heads * shape.group
    query = jnp.arange(max(MIN_DOT_SIZE, next_power_of_two(num_queries)))
    head = first_kv_head * shape.group + query
    is_query = (query < num_queries) & (head < shape.num_heads)
    return DecodeQueries(first_kv_head, head, is_query, jnp.where(is_query, head, 0))


def decode_tiles(begin, end, *, row, table_ref, shape: KernelShape, blocks: DecodeBlocks) -> Tiles:
    """The positions [begin, end) of a row: every column of a tile is a (position, KV head) pair."""
    column = jnp.arange(blocks.tile * blocks.kv_heads)
    return tiles_of_row(
        begin,
        end,
        tile=blocks.tile,
        position_in_tile=column // blocks.kv_heads,
        row=row,
        table_ref=table_ref,
        shape=shape,
    )


def attend_and_store(
    tiles: Tiles,
    carry,
    q: Array,
    *,
    begin,
    end,
    row,
    split,
    queries: DecodeQueries,
    pages: StoredPages,
    result_refs,
    shape: KernelShape,
    blocks: DecodeBlocks,
) -> None:
    """Attends the positions [begin, end), of which each query sees those of its own KV head, and stores the
    results of the program. `carry` is the softmax of what came before them."""
    query = jnp.arange(q.shape[0])
    column = jnp.arange(blocks.tile * blocks.kv_heads)
    column_head = column % blocks.kv_heads
    is_own = (query // shape.group)[:, None] == column_head[None, :]
    kv_head = jnp.minimum(queries.first_kv_head + column_head, shape.num_kv_heads - 1)

    def mask_of(i):
        inside = (begin + i * blocks.tile + column // blocks.kv_heads < end)[None, :]
        return inside if blocks.kv_heads == 1 else inside & is_own

    carry = attend_tiles(
        tiles, carry, q, mask_of=mask_of, is_edge=None, kv_head=kv_head, pages=pages, shape=shape
    )
    store_attention(
        result_refs, carry, row=row, head=queries.head, is_query=queries.is_query, split=split, shape=shape
    )


def merge_row_splits(
    partial: Sequence[Array],
    lengths: Array,
    *,
    options,
    into: Array | None = None,
    tile: int,
    dtype: jnp.dtype,
    interpret: bool,
) -> Array:
    """The attention of rows from the partial results of their splits, which share the positions that a row's
    query sees."""
    acc, top, total = partial
    seen = lengths if options.sliding_window is None else jnp.minimum(lengths, options.sliding_window)
    return merge_splits(acc, top, total, seen, into=into, tile=tile, dtype=dtype, interpret=interpret)
