"""Split-KV decode in Pallas on Triton, over positions that are all in the cache."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.kv_refs import StoredPages, stored
from pallas_kernels.core.online_softmax import KernelShape, softmax_start
from pallas_kernels.core.splits import partial_shapes, split_range
from pallas_kernels.core.triton_call import ceil_div, load_rows, triton_call
from pallas_kernels.paged_attention.decode.parts import (
    attend_and_store,
    decode_queries,
    decode_tiles,
    merge_row_splits,
)
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks, DecodeCall, decode_blocks
from pallas_kernels.paged_attention.tiles import kernel_shape


def decode(
    q: Array,
    kv_pages: AnyKVPages,
    page_table: Array,
    lengths: Array,
    *,
    sinks: Array | None,
    options,
    into: Array | None = None,
    blocks: DecodeBlocks | None = None,
    interpret: bool,
) -> Array:
    """One program per (block of KV heads, row, split). See the package for the contract.

    With `into` [at least rows, num_heads, head_dim] the result is that array, in which the rows that have
    positions are written, in place if it is used nowhere else; q has as many tokens, of which the first are
    the rows'.
    """
    if blocks is None:
        blocks = decode_blocks(DecodeCall.of(q, kv_pages, page_table)._replace(rows=lengths.shape[0]))
    return _decode(
        q, kv_pages, page_table, lengths, sinks, into, options=options, blocks=blocks, interpret=interpret
    )


@functools.partial(jax.jit, static_argnames=("options", "blocks", "interpret"))
def _decode(
    q,
    kv_pages: AnyKVPages,
    page_table,
    lengths,
    sinks,
    into,
    *,
    options,
    blocks: DecodeBlocks,
    interpret: bool,
) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    rows = lengths.shape[0]
    _, num_heads, head_dim = q.shape
    is_split = blocks.num_splits > 1
    partial = partial_shapes(rows, num_heads, num_splits=blocks.num_splits, dim=head_dim)
    whole = jax.ShapeDtypeStruct((rows, num_heads, head_dim), q.dtype) if into is None else into
    writes_into = into is not None and not is_split
    operands = q, stored(kv_pages), page_table, lengths, sinks, into if writes_into else None
    shape = kernel_shape(q, kv_pages, options=options, interpret=interpret)
    results = triton_call(
        functools.partial(
            _decode_kernel,
            shape=shape,
            blocks=blocks,
            keeps_empty_rows=writes_into,
        ),
        *operands,
        out_shape=partial if is_split else [jax.ShapeDtypeStruct(whole.shape, whole.dtype)],
        input_output_aliases={len(operands) - 1: 0} if writes_into else None,
        grid=(ceil_div(kv_pages.num_kv_heads, blocks.kv_heads), rows, blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="paged_attention_decode",
    )
    if not is_split:
        return results[0]
    return merge_row_splits(
        results,
        lengths,
        options=options,
        into=into,
        tile=blocks.tile,
        dtype=q.dtype,
        interpret=interpret,
    )


def _decode_kernel(
    q_ref,
    pages: StoredPages,
    table_ref,
    length_ref,
    sinks_ref,
    into_ref,  # the result that is written over it
    *result_refs,
    shape: KernelShape,
    blocks,
    keeps_empty_rows: bool,
):
    head_block, row, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    length = length_ref[row]
    begin, end = split_range(
        shape.window_begin(length - 1), length, split=split, tile=blocks.tile, num_splits=blocks.num_splits
    )

    writes_empty_rows = blocks.num_splits == 1 and not keeps_empty_rows  # with splits, the merge writes them

    @pl.when((begin < end) | writes_empty_rows)
    def _():
        tiles = decode_tiles(begin, end, row=row, table_ref=table_ref, shape=shape, blocks=blocks)
        queries = decode_queries(head_block, shape, blocks)
        rows = jnp.full_like(queries.head, row)
        q = load_rows(q_ref, rows, queries.any_head, size=shape.head_dim, padded_size=shape.padded_dim)
        sink = None if sinks_ref is None else plt.load(sinks_ref.at[queries.any_head])
        carry = softmax_start(q.shape[0], sink=sink, has_sink=split == 0, shape=shape)
        attend_and_store(
            tiles,
            carry,
            q,
            begin=begin,
            end=end,
            row=row,
            split=split,
            queries=queries,
            pages=pages,
            result_refs=result_refs,
            shape=shape,
            blocks=blocks,
        )
