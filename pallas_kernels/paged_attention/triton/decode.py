"""Split-KV decode in Pallas on Triton.

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

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.paged_attention.triton.softmax import (
    KernelShape,
    attend_tiles,
    kernel_shape,
    normalized,
    softmax_start,
    tiles_of_row,
)
from pallas_kernels.paged_attention.triton.splits import merge_splits, partial_shapes, split_range
from pallas_kernels.paged_attention.tuning.decode import DecodeBlocks, DecodeCall, decode_blocks
from pallas_kernels.triton_call import MIN_DOT_SIZE, ceil_div, load_rows, next_power_of_two, triton_call


def decode(
    q: Array,
    kv_pages: Array,
    page_table: Array,
    lengths: Array,
    sinks: Array | None,
    options,
    *,
    into: Array | None = None,
    blocks: DecodeBlocks | None = None,
    interpret: bool,
) -> Array:
    """One program per (block of KV heads, row, split). See the package for the contract.

    With `into` [at least rows, num_heads, head_dim] the result is that array, in which the rows that have positions are
    written, in place if nobody else uses it; q has as many tokens, of which the first are the rows'.
    """
    if blocks is None:
        blocks = decode_blocks(DecodeCall.of(q, kv_pages, page_table)._replace(rows=lengths.shape[0]))
    return _decode(q, kv_pages, page_table, lengths, sinks, into, options=options, blocks=blocks, interpret=interpret)


@functools.partial(jax.jit, static_argnames=("options", "blocks", "interpret"))
def _decode(q, kv_pages, page_table, lengths, sinks, into, *, options, blocks: DecodeBlocks, interpret: bool) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    rows, (_, num_heads, head_dim) = lengths.shape[0], q.shape
    is_split = blocks.num_splits > 1
    partial = partial_shapes(rows, num_heads, blocks.num_splits, head_dim)
    whole = jax.ShapeDtypeStruct((rows, num_heads, head_dim), q.dtype) if into is None else into
    writes_into = into is not None and not is_split
    operands = q, kv_pages, page_table, lengths, *([] if sinks is None else [sinks]), *([into] if writes_into else [])
    shape = kernel_shape(q, kv_pages, options, interpret)
    results = triton_call(
        functools.partial(
            _decode_kernel, shape=shape, blocks=blocks, has_sinks=sinks is not None, keeps_empty_rows=writes_into
        ),
        *operands,
        out_shape=partial if is_split else [jax.ShapeDtypeStruct(whole.shape, whole.dtype)],
        input_output_aliases={len(operands) - 1: 0} if writes_into else None,
        grid=(ceil_div(kv_pages.shape[3], blocks.kv_heads), rows, blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="paged_attention_decode",
    )
    if not is_split:
        return results[0]
    seen = lengths if options.sliding_window is None else jnp.minimum(lengths, options.sliding_window)
    acc, top, total = results
    return merge_splits(acc, top, total, seen, into=into, tile=blocks.tile, dtype=q.dtype, interpret=interpret)


def _decode_kernel(
    q_ref, kv_ref, table_ref, length_ref, *refs, shape: KernelShape, blocks, has_sinks: bool, keeps_empty_rows: bool
):
    result_refs = refs[-3:] if blocks.num_splits > 1 else refs[-1:]
    sinks_ref = refs[0] if has_sinks else None
    head_block, row, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    length = length_ref[row]
    begin, end = split_range(shape.window_begin(length - 1), length, split, blocks.tile, blocks.num_splits)

    writes_empty_rows = blocks.num_splits == 1 and not keeps_empty_rows  # with splits, the merge writes them

    @pl.when((begin < end) | writes_empty_rows)
    def _():
        first_kv_head, num_queries = head_block * blocks.kv_heads, blocks.kv_heads * shape.group
        column = jnp.arange(blocks.tile * blocks.kv_heads)
        tiles = tiles_of_row(begin, end, blocks.tile, column // blocks.kv_heads, row, table_ref, shape)
        query = jnp.arange(max(MIN_DOT_SIZE, next_power_of_two(num_queries)))
        head = first_kv_head * shape.group + query
        is_query = (query < num_queries) & (head < shape.num_heads)
        any_head = jnp.where(is_query, head, 0)
        q = load_rows(q_ref, jnp.full_like(head, row), any_head, size=shape.head_dim, padded_size=shape.padded_dim)
        sink = None if sinks_ref is None else plt.load(sinks_ref.at[any_head])
        carry = softmax_start(query.shape[0], sink, split == 0, shape)
        carry = _attend(tiles, carry, q, column, begin, end, first_kv_head, kv_ref, shape, blocks)
        _store(result_refs, carry, row, head, is_query, split, shape)


def _attend(tiles, carry, q, column, begin, end, first_kv_head, kv_ref, shape: KernelShape, blocks: DecodeBlocks):
    """The columns of a tile are (position, KV head) pairs; each query sees those of its own head."""
    query = jnp.arange(q.shape[0])
    column_head = column % blocks.kv_heads
    is_own = (query // shape.group)[:, None] == column_head[None, :]
    kv_head = jnp.minimum(first_kv_head + column_head, shape.num_kv_heads - 1)

    def mask_of(i):
        inside = (begin + i * blocks.tile + column // blocks.kv_heads < end)[None, :]
        return inside if blocks.kv_heads == 1 else inside & is_own

    return attend_tiles(tiles, carry, q, mask_of, None, kv_head, kv_ref, shape)


def _store(result_refs, carry, row, head, is_query, split, shape: KernelShape):
    """Partial results where there are three to store, else the attention itself."""
    acc, top, total = carry
    column = jnp.arange(shape.padded_dim)
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
