"""Paged attention in Pallas on Triton: `decode` with split KV, and ragged causal `extend`.

Both kernels run the same loop (`_attend_tiles`): a tile of positions at a time, page ids loaded from the page table,
keys and values gathered through them, online softmax in float32 with exp2.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.paged_attention import tuning
from pallas_kernels.triton_call import LOG2_E, MIN_DOT_SIZE, load_rows, next_power_of_two, triton_call

MASKED_SCORE = -1e30  # finite, so that the difference of two masked scores is 0 and not NaN


@dataclass(frozen=True)
class _Shape:
    """What both kernels know about a call when they are compiled."""

    group: int
    head_dim: int
    page_size: int
    tile: int
    scale: float
    sliding_window: int | None
    soft_cap: float | None
    precision: jax.lax.Precision | None

    @property
    def padded_dim(self) -> int:
        return max(MIN_DOT_SIZE, next_power_of_two(self.head_dim))

    @property
    def padded_group(self) -> int:
        return next_power_of_two(self.group)


def _shape_of(q: Array, kv_pages: Array, tile: int, options) -> _Shape:
    num_heads, head_dim = q.shape[1:]
    return _Shape(
        group=num_heads // kv_pages.shape[3],
        head_dim=head_dim,
        page_size=kv_pages.shape[2],
        tile=tile,
        scale=head_dim**-0.5 if options.scale is None else options.scale,
        sliding_window=options.sliding_window,
        soft_cap=options.soft_cap,
        # Without it a float32 dot is rounded to TF32 on tensor cores.
        precision=jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None,
    )


def decode(q: Array, kv_pages: Array, page_table: Array, lengths: Array, options, *, interpret: bool) -> Array:
    """One program per (row, KV head, split); XLA merges their partial results. See the package for the contract."""
    rows, num_heads, head_dim = q.shape
    num_kv_heads, max_positions = kv_pages.shape[3], page_table.shape[1] * kv_pages.shape[2]
    blocks = tuning.decode_blocks(rows, num_kv_heads, head_dim, max_positions, q.dtype.itemsize)
    shape = _shape_of(q, kv_pages, blocks.tile, options)
    query_rows = max(MIN_DOT_SIZE, shape.padded_group)
    partial = (rows, num_kv_heads, blocks.num_splits, query_rows)
    acc, top, total = triton_call(
        functools.partial(_decode_kernel, shape=shape, query_rows=query_rows, num_splits=blocks.num_splits),
        *(q, kv_pages, page_table, lengths),
        out_shape=[jax.ShapeDtypeStruct(s, jnp.float32) for s in ((*partial, shape.padded_dim), partial, partial)],
        grid=(rows, num_kv_heads, blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="paged_attention_decode",
    )
    merged = _merge_splits(acc, top, total)[:, :, : shape.group, :head_dim]
    return merged.reshape(rows, num_heads, head_dim).astype(q.dtype)


def _merge_splits(acc: Array, top: Array, total: Array) -> Array:
    """Partial sums [rows, heads, splits, queries, dim], with their maxima and sums, -> [rows, heads, queries, dim]."""
    weight = jnp.exp2(top - top.max(2, keepdims=True))
    denominator = (total * weight).sum(2)
    numerator = (acc * weight[..., None]).sum(2)
    return numerator / jnp.where(denominator == 0, 1, denominator)[..., None]  # a row of length 0 gives zeros


def _decode_kernel(q_ref, kv_ref, table_ref, length_ref, acc_ref, top_ref, total_ref, *, shape, query_rows, num_splits):
    row, kv_head, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    length = length_ref[row]
    first = 0 if shape.sliding_window is None else jnp.maximum(0, length - shape.sliding_window)
    # The splits share what this row has, not what the table could hold, in whole tiles.
    split_positions = _ceil_div(_ceil_div(length - first, shape.tile), num_splits) * shape.tile
    begin = first + split * split_positions
    end = jnp.minimum(begin + split_positions, length)

    head = kv_head * shape.group + jnp.minimum(jnp.arange(query_rows), shape.group - 1)
    q = load_rows(q_ref, jnp.full((query_rows,), row), head, size=shape.head_dim, padded_size=shape.padded_dim)
    newest = jnp.full((query_rows,), length - 1)
    acc, top, total = _attend_tiles(q, newest, begin, end, kv_ref, table_ref, row, kv_head, shape)
    acc_ref[row, kv_head, split, :, :] = acc
    top_ref[row, kv_head, split, :] = top
    total_ref[row, kv_head, split, :] = total


def extend(
    q: Array, kv_pages: Array, page_table: Array, query_starts: Array, lengths: Array, options, *, interpret: bool
) -> Array:
    """One program per (block of query tokens of one row, KV head). See the package for the contract."""
    tokens, num_heads, head_dim = q.shape
    rows, num_kv_heads = lengths.shape[0], kv_pages.shape[3]
    blocks = tuning.extend_blocks(tokens, num_heads // num_kv_heads, head_dim, q.dtype.itemsize)
    shape = _shape_of(q, kv_pages, blocks.tile, options)
    num_blocks = _ceil_div(tokens, blocks.block_tokens) + rows  # each row may leave its last block partly empty
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
    blocks_per_row = _ceil_div(jnp.diff(query_starts), block_tokens)
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
    acc, _, total = _attend_tiles(q, position, begin, end, kv_ref, table_ref, row, kv_head, shape)
    out = (acc / jnp.where(total == 0, 1, total)[:, None]).astype(out_ref.dtype)

    # Every element has an address of its own, also those outside: interpret mode writes the old value back to them.
    column = jnp.arange(shape.padded_dim)
    token, head = (query_start + query)[:, None], (kv_head * shape.group + group_head)[:, None]
    inside = is_query[:, None] & (column < shape.head_dim)[None, :]
    plt.store(out_ref.at[token, head, column[None, :]], out, mask=inside)


def _attend_tiles(q, query_position, begin, end, kv_ref, table_ref, row, kv_head, shape):
    """Online softmax of q [queries, padded_dim] over the positions [begin, end) of a row.

    query_position [queries] is the newest position that each query sees. Returns the sum of weighted values, the
    maximum score (in units of log 2) and the sum of weights, all float32 and relative to that maximum.
    """
    queries = q.shape[0]

    def one_tile(i, carry):
        acc, top, total = carry
        position = begin + i * shape.tile + jnp.arange(shape.tile)
        inside = position < end
        position = jnp.minimum(position, end - 1)  # a position that was written, and finite
        page, offset = table_ref[row, position // shape.page_size], position % shape.page_size
        sizes = {"size": shape.head_dim, "padded_size": shape.padded_dim}

        k = load_rows(kv_ref, 0, page, offset, kv_head, **sizes)
        scores = _soft_capped(plt.dot(q, k.T, precision=shape.precision) * shape.scale, shape.soft_cap) * LOG2_E
        seen = inside[None, :] & (position[None, :] <= query_position[:, None])
        if shape.sliding_window is not None:
            seen &= position[None, :] > query_position[:, None] - shape.sliding_window
        scores = jnp.where(seen, scores, MASKED_SCORE)

        new_top = jnp.maximum(top, scores.max(1))
        weight = jnp.where(seen, jnp.exp2(scores - new_top[:, None]), 0)
        rescale = jnp.exp2(top - new_top)
        v = load_rows(kv_ref, 1, page, offset, kv_head, **sizes)
        acc = acc * rescale[:, None] + plt.dot(weight.astype(v.dtype), v, precision=shape.precision)
        return acc, new_top, total * rescale + weight.sum(1)

    start = (
        jnp.zeros((queries, shape.padded_dim), jnp.float32),
        jnp.full((queries,), MASKED_SCORE, jnp.float32),
        jnp.zeros((queries,), jnp.float32),
    )
    num_tiles = _ceil_div(jnp.maximum(end - begin, 0), shape.tile)
    return jax.lax.fori_loop(0, num_tiles, one_tile, start)


def _soft_capped(scores: Array, soft_cap: float | None) -> Array:
    """soft_cap * tanh(scores / soft_cap), with tanh(x) = 1 - 2 / (exp(2x) + 1), which has no overflow to NaN."""
    if soft_cap is None:
        return scores
    return soft_cap * (1 - 2 / (jnp.exp2(scores * (2 * LOG2_E / soft_cap)) + 1))


def _ceil_div(a, b):
    return (a + b - 1) // b
