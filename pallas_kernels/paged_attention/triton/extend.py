"""Ragged causal prefill in Pallas on Triton."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.paged_attention.triton.tiles import attend_tiles, tile_shape
from pallas_kernels.paged_attention.tuning.extend import extend_blocks
from pallas_kernels.triton_call import MIN_DOT_SIZE, ceil_div, load_rows, triton_call


def extend(
    q: Array, kv_pages: Array, page_table: Array, query_starts: Array, lengths: Array, options, *, interpret: bool
) -> Array:
    """One program per (block of query tokens of one row, KV head). See the package for the contract."""
    tokens, num_heads, head_dim = q.shape
    rows, num_kv_heads = lengths.shape[0], kv_pages.shape[3]
    blocks = extend_blocks(tokens, num_heads // num_kv_heads, head_dim, q.dtype.itemsize)
    shape = tile_shape(q, kv_pages, blocks.tile, options)
    num_blocks = ceil_div(tokens, blocks.block_tokens) + rows  # each row may leave its last block partly empty
    block_row, block_begin = _blocks_of_rows(query_starts, blocks.block_tokens, num_blocks)
    (out,) = triton_call(
        functools.partial(_extend_kernel, shape=shape, block_tokens=blocks.block_tokens),
        *(q, kv_pages, page_table, query_starts, lengths, block_row, block_begin),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype)],
        grid=(num_blocks, num_kv_heads),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="paged_attention_extend",
    )
    is_padding = jnp.arange(tokens) >= query_starts[-1]
    return jnp.where(is_padding[:, None, None], 0, out)


def _blocks_of_rows(query_starts: Array, block_tokens: int, num_blocks: int) -> tuple[Array, Array]:
    """Which row each block serves and its first token within the row.

    Rows of 5, 0 and 9 tokens in blocks of 4:  row [0, 0, 2, 2, 2, 2, ...], begin [0, 4, 0, 4, 8, 12, ...]
    (blocks beyond the last row's tokens begin behind its end and do nothing).
    """
    blocks_per_row = ceil_div(jnp.diff(query_starts), block_tokens)
    last_block = jnp.cumsum(blocks_per_row)
    block = jnp.arange(num_blocks, dtype=jnp.int32)
    row = jnp.sum(block[:, None] >= last_block[None, :], axis=1, dtype=jnp.int32)
    row = jnp.minimum(row, blocks_per_row.shape[0] - 1)
    begin = (block - (last_block - blocks_per_row)[row]) * block_tokens
    return row, begin.astype(jnp.int32)


def _extend_kernel(
    q_ref,
    kv_ref,
    table_ref,
    query_start_ref,
    length_ref,
    block_row_ref,
    block_begin_ref,
    out_ref,
    *,
    shape,
    block_tokens,
):
    block, kv_head = pl.program_id(0), pl.program_id(1)
    row, block_begin = block_row_ref[block], block_begin_ref[block]
    query_start = query_start_ref[row]
    num_queries = query_start_ref[row + 1] - query_start
    length = length_ref[row]

    # Query rows are (token, head of the group): token-major, so that a block's rows are close in memory.
    query_row = jnp.arange(max(MIN_DOT_SIZE, block_tokens * shape.padded_group))
    query = block_begin + query_row // shape.padded_group
    group_head = query_row % shape.padded_group
    is_query = (query < num_queries) & (query < block_begin + block_tokens) & (group_head < shape.group)
    position = length - num_queries + query

    first_position = length - num_queries + block_begin
    begin = 0 if shape.sliding_window is None else jnp.maximum(0, first_position - shape.sliding_window + 1)
    end = jnp.where(block_begin < num_queries, jnp.minimum(length, first_position + block_tokens), 0)
    token = jnp.where(is_query, query_start + query, 0)
    head = jnp.where(is_query, kv_head * shape.group + group_head, 0)
    q = load_rows(q_ref, token, head, size=shape.head_dim, padded_size=shape.padded_dim)
    acc, _, total = attend_tiles(q, position, begin, end, kv_ref, table_ref, row, kv_head, shape)
    out = (acc / jnp.where(total == 0, 1, total)[:, None]).astype(out_ref.dtype)

    # Every element has an address of its own, also those outside: interpret mode writes the old value back to them.
    column = jnp.arange(shape.padded_dim)
    token, head = (query_start + query)[:, None], (kv_head * shape.group + group_head)[:, None]
    inside = is_query[:, None] & (column < shape.head_dim)[None, :]
    plt.store(out_ref.at[token, head, column[None, :]], out, mask=inside)
