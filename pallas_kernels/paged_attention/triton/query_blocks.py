"""Which program of `extend` serves which query tokens: a few small arrays that XLA computes once for all layers."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div


class QueryBlock(NamedTuple):
    """What a program needs to know, or, as arrays, all programs. One array each, read side by side: a program that
    looked its row up first, and then the rest through it, would wait for memory twice before its first key."""

    row: Array  # of the page table
    token: Array  # where the block's first query token is in the flattened batch
    num_queries: Array  # from there to the end of the row, and so perhaps more than a block, or none
    position: Array  # of that token in its row
    length: Array  # of the row
    row_begin: Array  # the position of the row's first query token


def query_blocks(query_starts: Array, lengths: Array, num_tokens: int, block_tokens: int) -> QueryBlock:
    """Blocks in the order in which they should start: longest rows first, and of each row its last block first, so
    that no long block is left for the end. Every field is [blocks] int32.

    Rows of 5, 0 and 9 tokens and lengths 50, 0 and 9 in blocks of 4 are the rows [0, 0, 2, 2, 2] and the positions
    [49, 45, 8, 4, 0]. One more row behind the last owns the padding tokens; it has no positions, and so gives zeros.
    Each row may leave its last block partly empty, hence the number of blocks; what is over has no queries.
    """
    starts = jnp.concatenate([query_starts, jnp.array([num_tokens], jnp.int32)])
    lengths = jnp.concatenate([lengths, jnp.zeros(1, jnp.int32)])
    num_rows = lengths.shape[0]
    num_blocks = ceil_div(num_tokens, block_tokens) + num_rows - 1
    row = jnp.arange(num_rows)
    starts_earlier = (lengths[:, None] > lengths[None, :]) | ((lengths[:, None] == lengths) & (row[:, None] < row))
    num_queries = jnp.diff(starts)
    blocks_of_row = ceil_div(num_queries, block_tokens)
    first_block = jnp.sum(jnp.where(starts_earlier, blocks_of_row[:, None], 0), axis=0)

    block = jnp.arange(num_blocks)[:, None]
    is_of_row = (block >= first_block) & (block < first_block + blocks_of_row)
    begin = (first_block + blocks_of_row - 1 - block) * block_tokens  # within the row

    def of_block(value: Array) -> Array:
        return jnp.sum(jnp.where(is_of_row, value, 0), axis=1, dtype=jnp.int32)

    return QueryBlock(
        row=jnp.minimum(of_block(row), num_rows - 2),
        token=of_block(starts[:-1] + begin),
        num_queries=of_block(num_queries - begin),
        position=of_block(lengths - num_queries + begin),
        length=of_block(lengths),
        row_begin=of_block(lengths - num_queries),
    )


def positions_shared(query_starts: Array, lengths: Array, num_tokens: int, sliding_window: int | None) -> Array:
    """How many positions the splits of each token's row share; 0 for padding tokens. [tokens]"""
    num_queries = jnp.diff(query_starts)
    begin = 0 if sliding_window is None else jnp.maximum(0, lengths - num_queries - sliding_window + 1)
    shared = lengths - begin
    token = jnp.arange(num_tokens)[:, None]
    is_of_row = (token >= query_starts[:-1]) & (token < query_starts[1:])
    return jnp.sum(jnp.where(is_of_row, shared, 0), axis=1).astype(jnp.int32)
