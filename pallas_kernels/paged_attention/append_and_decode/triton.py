"""Split-KV decode that takes in the new token: its norm and rotation, and the write of its key and value.

The position of the new token is not read from the cache: the program whose split of the row it is in has its
key and value in registers, attends it first, and stores them; no other program reads that position. All
programs of a row norm and rotate their own queries.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.kv_pages import KVPages
from pallas_kernels.core.online_softmax import KernelShape, soft_capped, softmax_start, softmax_step_of_one
from pallas_kernels.core.splits import merge_splits, partial_shapes, split_range
from pallas_kernels.core.stacked import layer_index_operand
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.paged_attention.append_and_decode.new_token import (
    NewTokenRefs,
    load_angles,
    load_raw_heads,
    load_values,
    rotated,
    store_new_token,
)
from pallas_kernels.paged_attention.decode.parts import (
    DecodeQueries,
    attend_row,
    decode_queries,
    decode_tiles,
    store_row,
)
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks, DecodeCall, decode_blocks
from pallas_kernels.paged_attention.tiles import kernel_shape


def append_and_decode(
    heads: Array,
    kv_pages: KVPages,
    page_table: Array,
    lengths: Array,
    angles: tuple[Array, Array],
    norm: tuple[Array, Array, float] | None,
    layer: int | Array | None,
    sinks: Array | None,
    options,
    *,
    blocks: DecodeBlocks | None = None,
    interpret: bool,
) -> tuple[Array, KVPages]:
    """One program per (block of KV heads, row, split), with decode's blocks. See the package for the
    contract."""
    if blocks is None:
        blocks = decode_blocks(DecodeCall.of(_queries_of(heads, kv_pages), kv_pages, page_table))
    *scales, epsilon = norm or (None,)
    new_token: dict[str, Any] = {"cos": angles[0], "sin": angles[1]}  # fields of NewTokenRefs
    if layer is not None:
        new_token["layer"] = layer_index_operand(layer)
    if scales:
        new_token["scales"] = tuple(scales)
    operands = heads, kv_pages, page_table, lengths, new_token, sinks
    return _append(*operands, options=options, epsilon=epsilon, blocks=blocks, interpret=interpret)


def _queries_of(heads: Array, kv_pages: KVPages) -> jax.ShapeDtypeStruct:
    rows, num_outputs, head_dim = heads.shape
    return jax.ShapeDtypeStruct((rows, num_outputs - 2 * kv_pages.num_kv_heads, head_dim), heads.dtype)


@functools.partial(jax.jit, static_argnames=("options", "epsilon", "blocks", "interpret"))
def _append(
    heads,
    kv_pages: KVPages,
    page_table,
    lengths,
    new_token: dict[str, Any],
    sinks,
    *,
    options,
    epsilon: float | None,
    blocks: DecodeBlocks,
    interpret: bool,
) -> tuple[Array, KVPages]:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    q = _queries_of(heads, kv_pages)
    rows, num_heads, head_dim = q.shape
    others, structure = jax.tree.flatten((new_token, sinks))
    *results, written = triton_call(
        functools.partial(
            _append_kernel,
            structure=structure,
            shape=kernel_shape(q, kv_pages, options, interpret),
            blocks=blocks,
            epsilon=epsilon,
        ),
        *(heads, kv_pages.array, page_table, lengths, *others),
        out_shape=[
            *(partial_shapes(rows, num_heads, blocks.num_splits, head_dim) if blocks.num_splits > 1 else [q]),
            jax.ShapeDtypeStruct(kv_pages.array.shape, kv_pages.dtype),
        ],
        input_output_aliases={1: 3 if blocks.num_splits > 1 else 1},
        grid=(ceil_div(kv_pages.num_kv_heads, blocks.kv_heads), rows, blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="append_and_decode",
    )
    if blocks.num_splits == 1:
        return results[0], KVPages(written)
    acc, top, total = results
    seen = lengths if options.sliding_window is None else jnp.minimum(lengths, options.sliding_window)
    return merge_splits(acc, top, total, seen, tile=blocks.tile, dtype=q.dtype, interpret=interpret), KVPages(
        written
    )


def _append_kernel(
    heads_ref,
    kv_ref,
    table_ref,
    length_ref,
    *refs,
    structure,
    shape: KernelShape,
    blocks: DecodeBlocks,
    epsilon,
):
    num_results = 3 if blocks.num_splits > 1 else 1
    *operand_refs, written_ref = refs
    new_token, sinks_ref = jax.tree.unflatten(structure, operand_refs[:-num_results])
    token_refs = NewTokenRefs(heads_ref, **new_token)
    head_block, row, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    length = length_ref[row]
    newest = length - 1
    begin, last = split_range(shape.window_begin(newest), length, split, blocks.tile, blocks.num_splits)
    end = jnp.minimum(last, newest)
    has_new = (begin < last) & (last == length)

    @pl.when(
        (begin < last) | (blocks.num_splits == 1)
    )  # where nothing is merged, a row of length 0 is written here
    def _():
        tiles = decode_tiles(begin, end, row, table_ref, shape, blocks)
        queries = decode_queries(head_block, shape, blocks)
        sink = None if sinks_ref is None else plt.load(sinks_ref.at[queries.any_head])
        attend_new, q = _new_token(token_refs, written_ref, table_ref, row, newest, queries, shape, epsilon)
        carry = softmax_start(q.shape[0], sink, split == 0, shape)
        carry = jax.lax.cond(has_new, attend_new, lambda carry: carry, carry)
        carry = attend_row(tiles, carry, q, begin, end, queries.first_kv_head, kv_ref, shape, blocks)
        store_row(operand_refs[-num_results:], carry, row, queries, split, shape)


def _new_token(
    refs: NewTokenRefs, kv_ref, table_ref, row, position, queries: DecodeQueries, shape: KernelShape, epsilon
):
    """A function that attends and stores the new position, and the queries.

    Each query has the key and the value of its KV head to itself, so that threads exchange nothing but sums.
    """
    kv_head = queries.any_head // shape.group
    raw_q = load_raw_heads(refs, row, queries.any_head, 0, shape)
    raw_k = load_raw_heads(refs, row, shape.num_heads + kv_head, 1, shape)
    v = load_values(refs, row, shape.num_heads + shape.num_kv_heads + kv_head, shape)
    angles = load_angles(refs, row, kv_head, shape)
    q = rotated(raw_q, angles, epsilon, shape.head_dim, kv_ref.dtype)

    def attend_new(carry):
        k = rotated(raw_k, angles, epsilon, shape.head_dim, kv_ref.dtype)
        is_first = queries.is_query & (queries.head % shape.group == 0)
        store_new_token(kv_ref, table_ref, row, position, kv_head, is_first, k, v, shape)
        score = (q.astype(jnp.float32) * k.astype(jnp.float32)).sum(1)
        return softmax_step_of_one(carry, soft_capped(score, shape), v, shape)

    return attend_new, q
