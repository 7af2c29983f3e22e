"""Blocks of query tokens that programs of `extend` serve: a few small arrays that XLA computes once for all
layers.

Rows of 5, 0 and 9 tokens and lengths 50, 0 and 9 in blocks of 4 have blocks at the positions 45 and 49 of row
0, and at 0, 4 and 8 of row 2. One more row after the last owns the padding tokens; it has no positions, and
so gives zeros. Each row may leave its last block partly empty, hence the number of blocks; what is over has
no queries. Each kernel has an order of its own.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div


class QueryBlock(NamedTuple):
    """The facts that a program needs, or, as arrays, all programs. One array each, read side by side: a
    program that looked its row up first, and then the rest through it, would wait for memory twice before its
    first key."""

    row: Array  # of the page table
    token: Array  # where the block's first query token is in the flattened batch
    num_queries: Array  # from there to the end of the row, and so perhaps more than a block, or none
    position: Array  # of that token in its row
    length: Array  # of the row
    row_begin: Array  # the position of the row's first query token


class _Rows(NamedTuple):
    """The rows and the padding after them, [rows + 1]; and how many blocks all may have together."""

    starts: Array
    lengths: Array
    num_queries: Array
    num_blocks: Array
    max_blocks: int

    @classmethod
    def of(cls, query_starts: Array, lengths: Array, num_tokens: int, block_tokens: int) -> "_Rows":
        starts = jnp.concatenate([query_starts, jnp.array([num_tokens], jnp.int32)])
        lengths = jnp.concatenate([lengths, jnp.zeros(1, jnp.int32)])
        num_queries = jnp.diff(starts)
        max_blocks = ceil_div(num_tokens, block_tokens) + lengths.shape[0] - 1
        return cls(starts, lengths, num_queries, ceil_div(num_queries, block_tokens), max_blocks)


def longest_rows_first(
    query_starts: Array, lengths: Array, *, num_tokens: int, block_tokens: int
) -> QueryBlock:
    """Blocks in the order in which programs should start: longest rows first, and of each row its last block
    first, so that no long block is left for the end. Every field is [blocks] int32.

    In the example, the rows [0, 0, 2, 2, 2] and the positions [49, 45, 8, 4, 0].
    """
    rows = _Rows.of(query_starts, lengths, num_tokens, block_tokens)
    num_rows = rows.lengths.shape[0]
    lengths = rows.lengths
    row = jnp.arange(num_rows)
    starts_earlier = (lengths[:, None] > lengths[None, :]) | (
        (lengths[:, None] == lengths) & (row[:, None] < row)
    )
    first_block = jnp.sum(jnp.where(starts_earlier, rows.num_blocks[:, None], 0), axis=0)

    block = jnp.arange(rows.max_blocks)[:, None]
    is_of_row = (block >= first_block) & (block < first_block + rows.num_blocks)
    begin = (first_block + rows.num_blocks - 1 - block) * block_tokens  # within the row

    def of_block(value: Array) -> Array:
        return jnp.sum(jnp.where(is_of_row, value, 0), axis=1, dtype=jnp.int32)

    return QueryBlock(
        row=jnp.minimum(of_block(row), num_rows - 2),
        token=of_block(rows.starts[:-1] + begin),
        num_queries=of_block(rows.num_queries - begin),
        position=of_block(lengths - rows.num_queries + begin),
        length=of_block(lengths),
        row_begin=of_block(lengths - rows.num_queries),
    )


def newest_positions_first(
    query_starts: Array, lengths: Array, *, num_tokens: int, block_tokens: int
) -> tuple[Array, Array]:
    """The fields of a QueryBlock but the last, [fields, blocks], the newest positions first, of whatever row;
    and how many blocks have queries, [1], which are the first. For programs that take blocks one after
    another.

    In the example, the positions [49, 45, 8, 4, 0]. All sums are over the last axis, which XLA fuses with
    what they are of.
    """
    rows = _Rows.of(query_starts, lengths, num_tokens, block_tokens)
    num_rows = rows.lengths.shape[0]
    each_row = jnp.arange(num_rows)
    is_before = each_row <= each_row[:, None]
    end = jnp.sum(jnp.where(is_before, rows.num_blocks, 0), axis=1, dtype=jnp.int32)  # of each row's blocks
    index = jnp.arange(rows.max_blocks, dtype=jnp.int32)

    row = jnp.sum(index[:, None] >= end, axis=1, dtype=jnp.int32)  # num_rows where no block is left
    row = jnp.minimum(row, num_rows - 1)
    first = jnp.where(row == 0, 0, end[row - 1])
    begin = (index - first) * block_tokens  # within the row
    num_queries = rows.num_queries[row]
    position = rows.lengths[row] - num_queries + begin
    order = _descending(jnp.where(index < end[-1], position, jnp.iinfo(jnp.int32).min), index)

    of_page_table = jnp.minimum(row, num_rows - 2)
    fields = of_page_table, rows.starts[row] + begin, num_queries - begin, position, rows.lengths[row]
    return jnp.stack(fields)[:, order], end[-1:]


def _descending(key: Array, index: Array) -> Array:
    """The indices [n] that sort `key`, the largest first and equal ones as they are. A sort would be a
    kernel."""
    comes_before = (key > key[:, None]) | ((key == key[:, None]) & (index < index[:, None]))
    rank = jnp.sum(comes_before, axis=1, dtype=jnp.int32)
    return jnp.sum(jnp.where(rank == index[:, None], index, 0), axis=1, dtype=jnp.int32)


def positions_shared(
    query_starts: Array, lengths: Array, *, num_tokens: int, sliding_window: int | None
) -> Array:
    """The positions that the splits of each token's row share; 0 for padding tokens. [tokens]"""
    num_queries = jnp.diff(query_starts)
    begin = 0 if sliding_window is None else jnp.maximum(0, lengths - num_queries - sliding_window + 1)
    shared = lengths - begin
    token = jnp.arange(num_tokens)[:, None]
    is_of_row = (token >= query_starts[:-1]) & (token < query_starts[1:])
    return jnp.sum(jnp.where(is_of_row, shared, 0), axis=1).astype(jnp.int32)
