"""Ragged causal prefill in Pallas on Triton.

A program serves a block of query tokens of one row and one KV head: the rows of its dots are (token, query
head of the group). Positions that all of them see are attended without a mask; only the tiles at the causal
edge, and at the far edge of a sliding window, pay for one.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.epilogues import store_attention
from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.kv_refs import StoredPages, stored
from pallas_kernels.core.online_softmax import KernelShape, softmax_start
from pallas_kernels.core.splits import merge_splits, partial_shapes, split_range
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, load_rows, next_power_of_two, triton_call
from pallas_kernels.paged_attention.extend.query_blocks import (
    QueryBlock,
    longest_rows_first,
    positions_shared,
)
from pallas_kernels.paged_attention.extend.tuning import ExtendBlocks, ExtendCall, extend_blocks
from pallas_kernels.paged_attention.tiles import attend_tiles, kernel_shape, tiles_of_row


def extend(
    q: Array,
    kv_pages: AnyKVPages,
    page_table: Array,
    query_starts: Array,
    lengths: Array,
    *,
    sinks: Array | None,
    options,
    blocks: ExtendBlocks | None = None,
    interpret: bool,
) -> Array:
    """One program per (block of query tokens, KV head, split). See the package for the contract."""
    if blocks is None:
        blocks = extend_blocks(ExtendCall.of(q, kv_pages, page_table))
    return _extend(
        q,
        kv_pages,
        page_table,
        query_starts,
        lengths,
        sinks,
        options=options,
        blocks=blocks,
        interpret=interpret,
    )


@functools.partial(jax.jit, static_argnames=("options", "blocks", "interpret"))
def _extend(
    q,
    kv_pages: AnyKVPages,
    page_table,
    query_starts,
    lengths,
    sinks,
    *,
    options,
    blocks: ExtendBlocks,
    interpret: bool,
) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    tokens, num_heads, head_dim = q.shape
    work = longest_rows_first(query_starts, lengths, num_tokens=tokens, block_tokens=blocks.block_tokens)
    is_split = blocks.num_splits > 1
    results = triton_call(
        functools.partial(
            _extend_kernel,
            shape=kernel_shape(q, kv_pages, options=options, interpret=interpret),
            blocks=blocks,
        ),
        *(q, stored(kv_pages), page_table, work, sinks),
        out_shape=partial_shapes(tokens, num_heads, num_splits=blocks.num_splits, dim=head_dim)
        if is_split
        else [jax.ShapeDtypeStruct(q.shape, q.dtype)],
        grid=(kv_pages.num_kv_heads, work.row.shape[0], blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="paged_attention_extend",
    )
    if not is_split:
        return results[0]
    shared = positions_shared(query_starts, lengths, num_tokens=tokens, sliding_window=options.sliding_window)
    acc, top, total = results
    return merge_splits(acc, top, total, shared, tile=blocks.tile, dtype=q.dtype, interpret=interpret)


class _Queries(NamedTuple):
    """The rows of a program's dots."""

    token: Array  # where each is in the flattened batch
    head: Array
    position: Array  # in its row
    is_query: Array  # whether it is one, and not padding


def _extend_kernel(
    q_ref,
    pages: StoredPages,
    table_ref,
    work: QueryBlock,
    sinks_ref,
    *result_refs,
    shape: KernelShape,
    blocks: ExtendBlocks,
):
    kv_head, block_id, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)

    def load_block():
        return QueryBlock(*(ref[block_id] for ref in work))

    block = load_block()
    begin = shape.window_begin(block.position)
    end = jnp.minimum(block.length, block.position + blocks.block_tokens)
    if blocks.num_splits > 1:  # all blocks of a row share the same range, which `positions_shared` knows
        begin = shape.window_begin(block.row_begin)
        begin, end = split_range(
            begin, block.length, split=split, tile=blocks.tile, num_splits=blocks.num_splits
        )

    @pl.when((block.num_queries > 0) & ((begin < end) | (blocks.num_splits == 1)))
    def _():
        tiles = tiles_of_row(
            begin,
            end,
            tile=blocks.tile,
            position_in_tile=jnp.arange(blocks.tile),
            row=block.row,
            table_ref=table_ref,
            shape=shape,
        )
        queries = _queries(block, kv_head, shape, blocks)
        token, head = (jnp.where(queries.is_query, x, 0) for x in (queries.token, queries.head))
        q = load_rows(q_ref, token, head, size=shape.head_dim, padded_size=shape.padded_dim)
        sink = None if sinks_ref is None else plt.load(sinks_ref.at[head])
        carry = softmax_start(q.shape[0], sink=sink, has_sink=split == 0, shape=shape)
        carry = _attend(tiles, carry, q, queries.position, begin, end, block, kv_head, pages, shape, blocks)
        # Loaded and computed again, since the registers of values kept through the loop would be spilled.
        queries = _queries(load_block(), kv_head, shape, blocks)
        store_attention(
            result_refs,
            carry,
            row=queries.token,
            head=queries.head,
            is_query=queries.is_query,
            split=split,
            shape=shape,
        )


def _queries(block: QueryBlock, kv_head, shape: KernelShape, blocks: ExtendBlocks) -> _Queries:
    """Token-major, so that a block's rows are close in memory."""
    padded_group = next_power_of_two(shape.group)
    index = jnp.arange(max(MIN_DOT_SIZE, blocks.block_tokens * padded_group))
    query = index // padded_group
    group_head = index % padded_group
    is_query = (query < jnp.minimum(block.num_queries, blocks.block_tokens)) & (group_head < shape.group)
    return _Queries(block.token + query, kv_head * shape.group + group_head, block.position + query, is_query)


def _attend(tiles, carry, q, query_position, begin, end, block: QueryBlock, kv_head, pages, shape, blocks):
    """A query sees the positions up to its own, and no more of them than its window."""

    def mask_of(i):
        position = begin + i * blocks.tile + jnp.arange(blocks.tile)
        seen = position[None, :] <= query_position[:, None]  # and so before `end`, unless that ends a split
        if blocks.num_splits > 1:
            seen &= (position < end)[None, :]
        if shape.sliding_window is not None:
            seen &= position[None, :] > query_position[:, None] - shape.sliding_window
        return seen

    def is_edge(i):
        first = begin + i * blocks.tile
        last = begin + (i + 1) * blocks.tile - 1
        is_cut = (last > block.position) | (last >= end)
        if shape.sliding_window is None:
            return is_cut
        last_query = jnp.minimum(block.position + blocks.block_tokens, block.length) - 1
        return is_cut | (first < shape.window_begin(last_query))

    return attend_tiles(
        tiles, carry, q, mask_of=mask_of, is_edge=is_edge, kv_head=kv_head, pages=pages, shape=shape
    )
