"""What a program of decode is made of: the queries that it serves, their attention over cached positions, its results.

A program serves several KV heads of one row at once. The rows of its dots are the query heads of those KV heads, and
the columns are (position, KV head) pairs in the order in which they lie in memory: so a tile is read in long
contiguous pieces, and rows that padding to a dot's 16 would waste do work. A column of another head than the row's is
masked. For two KV heads a, b of two query heads each:

            p0.a p0.b p1.a p1.b
    q0 (a)   x         x
    q1 (a)   x         x
    q2 (b)        x         x
    q3 (b)        x         x
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import MIN_DOT_SIZE, next_power_of_two
from pallas_kernels.paged_attention.triton.softmax import KernelShape, attend_tiles, normalized, tiles_of_row
from pallas_kernels.paged_attention.tuning.decode import DecodeBlocks


class DecodeQueries(NamedTuple):
    """The query heads of a program: the rows of its dots."""

    first_kv_head: Array
    head: Array
    is_query: Array  # whether it is one, and not padding
    any_head: Array  # the head, and for padding one that there is


def decode_queries(head_block, shape: KernelShape, blocks: DecodeBlocks) -> DecodeQueries:
    """Those of the KV heads of a block."""
    first_kv_head, num_queries = head_block * blocks.kv_heads, blocks.kv_heads * shape.group
    query = jnp.arange(max(MIN_DOT_SIZE, next_power_of_two(num_queries)))
    head = first_kv_head * shape.group + query
    is_query = (query < num_queries) & (head < shape.num_heads)
    return DecodeQueries(first_kv_head, head, is_query, jnp.where(is_query, head, 0))


def decode_tiles(begin, end, row, table_ref, shape: KernelShape, blocks: DecodeBlocks):
    """The positions [begin, end) of a row: every column of a tile is a (position, KV head) pair."""
    column = jnp.arange(blocks.tile * blocks.kv_heads)
    return tiles_of_row(begin, end, blocks.tile, column // blocks.kv_heads, row, table_ref, shape)


def attend_row(tiles, carry, q, begin, end, first_kv_head, kv_ref, shape: KernelShape, blocks: DecodeBlocks):
    """The carry after the positions [begin, end), of which each query sees those of its own KV head."""
    query, column = jnp.arange(q.shape[0]), jnp.arange(blocks.tile * blocks.kv_heads)
    column_head = column % blocks.kv_heads
    is_own = (query // shape.group)[:, None] == column_head[None, :]
    kv_head = jnp.minimum(first_kv_head + column_head, shape.num_kv_heads - 1)

    def mask_of(i):
        inside = (begin + i * blocks.tile + column // blocks.kv_heads < end)[None, :]
        return inside if blocks.kv_heads == 1 else inside & is_own

    return attend_tiles(tiles, carry, q, mask_of, None, kv_head, kv_ref, shape)


def store_row(result_refs, carry, row, queries: DecodeQueries, split, shape: KernelShape):
    """Partial results where there are three to store, else the attention itself."""
    acc, top, total = carry
    head, is_query, column = queries.head, queries.is_query, jnp.arange(shape.padded_dim)
    inside = is_query[:, None] & (column < shape.head_dim)[None, :]
    if len(result_refs) == 1:
        (out_ref,) = result_refs
        out = normalized(acc, total).astype(out_ref.dtype)
        plt.store(out_ref.at[row, head[:, None], column[None, :]], out, mask=inside)
        return
    acc_ref, top_ref, total_ref = result_refs
    plt.store(acc_ref.at[row, head[:, None], split, column[None, :]], acc, mask=inside)
    plt.store(top_ref.at[row, head, split], top, mask=is_query)
    plt.store(total_ref.at[row, head, split], total, mask=is_query)
