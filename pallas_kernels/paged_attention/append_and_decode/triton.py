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

from pallas_kernels.core.heads import queries_of
from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.kv_refs import Encoded, StoredPages, as_pages, shapes_of, stored
from pallas_kernels.core.online_softmax import KernelShape, soft_capped, softmax_start, softmax_step_of_one
from pallas_kernels.core.splits import partial_shapes, split_range
from pallas_kernels.core.stacked import layer_index_operand
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.paged_attention.append_and_decode.new_token import (
    NewTokenRefs,
    load_angles,
    load_fixed_scales,
    load_raw_heads,
    load_values,
    rotated,
    store_new_token,
)
from pallas_kernels.paged_attention.decode.parts import (
    DecodeQueries,
    attend_and_store,
    decode_queries,
    decode_tiles,
    merge_row_splits,
)
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks, DecodeCall, decode_blocks
from pallas_kernels.paged_attention.tiles import kernel_shape


def append_and_decode(
    heads: Array,
    kv_pages: AnyKVPages,
    page_table: Array,
    lengths: Array,
    *,
    angles: tuple[Array, Array],
    norm: tuple[Array, Array, float] | None,
    kv_scales: Array | None = None,
    layer: int | Array | None,
    interleaved: bool = False,
    sinks: Array | None,
    options,
    blocks: DecodeBlocks | None = None,
    interpret: bool,
) -> tuple[Array, AnyKVPages]:
    """One program per (block of KV heads, row, split), with decode's blocks. See the package for the
    contract."""
    if blocks is None:
        blocks = decode_blocks(DecodeCall.of(queries_of(heads, kv_pages), kv_pages, page_table))
    *scales, epsilon = norm or (None,)
    new_token: dict[str, Any] = {"cos": angles[0], "sin": angles[1]}  # fields of NewTokenRefs
    if layer is not None:
        new_token["layer"] = layer_index_operand(layer)
    if scales:
        new_token["scales"] = tuple(scales)
    if kv_scales is not None:
        new_token["kv_scales"] = kv_scales
    operands = heads, kv_pages, page_table, lengths, new_token, sinks
    static = {"options": options, "epsilon": epsilon, "interleaved": interleaved}
    return _append(*operands, **static, blocks=blocks, interpret=interpret)


@functools.partial(jax.jit, static_argnames=("options", "epsilon", "interleaved", "blocks", "interpret"))
def _append(
    heads,
    kv_pages: AnyKVPages,
    page_table,
    lengths,
    new_token: dict[str, Any],
    sinks,
    *,
    options,
    epsilon: float | None,
    interleaved: bool,
    blocks: DecodeBlocks,
    interpret: bool,
) -> tuple[Array, AnyKVPages]:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    q = queries_of(heads, kv_pages)
    rows, num_heads, head_dim = q.shape
    pages = stored(kv_pages)
    *results, written = triton_call(
        functools.partial(
            _append_kernel,
            shape=kernel_shape(q, kv_pages, options=options, interpret=interpret),
            blocks=blocks,
            epsilon=epsilon,
            interleaved=interleaved,
        ),
        *(heads, pages, page_table, lengths, new_token, sinks),
        out_shape=[
            *(
                partial_shapes(rows, num_heads, num_splits=blocks.num_splits, dim=head_dim)
                if blocks.num_splits > 1
                else [q]
            ),
            shapes_of(pages),
        ],
        input_output_aliases={1: 3 if blocks.num_splits > 1 else 1},
        grid=(ceil_div(kv_pages.num_kv_heads, blocks.kv_heads), rows, blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="append_and_decode",
    )
    if blocks.num_splits == 1:
        return results[0], as_pages(written, kv_pages)
    out = merge_row_splits(
        results, lengths, options=options, tile=blocks.tile, dtype=q.dtype, interpret=interpret
    )
    return out, as_pages(written, kv_pages)


def _append_kernel(
    heads_ref,
    pages: StoredPages,
    table_ref,
    length_ref,
    new_token: dict[str, Any],
    sinks_ref,
    *all_result_refs,
    shape: KernelShape,
    blocks: DecodeBlocks,
    epsilon,
    interleaved: bool,
):
    *result_refs, written = all_result_refs
    token_refs = NewTokenRefs(heads_ref, **new_token, interleaved=interleaved)
    head_block, row, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    length = length_ref[row]
    newest = length - 1
    begin, last = split_range(
        shape.window_begin(newest), length, split=split, tile=blocks.tile, num_splits=blocks.num_splits
    )
    end = jnp.minimum(last, newest)
    has_new = (begin < last) & (last == length)

    @pl.when(
        (begin < last) | (blocks.num_splits == 1)
    )  # where nothing is merged, a row of length 0 is written here
    def _():
        tiles = decode_tiles(begin, end, row=row, table_ref=table_ref, shape=shape, blocks=blocks)
        queries = decode_queries(head_block, shape, blocks)
        sink = None if sinks_ref is None else plt.load(sinks_ref.at[queries.any_head])
        attend_new, q = _new_token(token_refs, written, table_ref, row, newest, queries, shape, epsilon)
        carry = softmax_start(q.shape[0], sink=sink, has_sink=split == 0, shape=shape)
        carry = jax.lax.cond(has_new, attend_new, lambda carry: carry, carry)
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


def _new_token(
    refs: NewTokenRefs,
    written: StoredPages,
    table_ref,
    row,
    position,
    queries: DecodeQueries,
    shape: KernelShape,
    epsilon,
):
    """A function that attends and stores the new position, and the queries.

    The position is attended as the cache has it, so that a token is the same to its own query as to later
    ones. Each query has the key and the value of its KV head to itself, so that threads exchange nothing but
    sums.
    """
    kv_head = queries.any_head // shape.group
    raw_q = load_raw_heads(refs, row=row, head=queries.any_head, kind=0, shape=shape)
    raw_k = load_raw_heads(refs, row=row, head=shape.num_heads + kv_head, kind=1, shape=shape)
    new_v = load_values(refs, row=row, head=shape.num_heads + shape.num_kv_heads + kv_head, shape=shape)
    angles = load_angles(refs, row=row, head=kv_head, shape=shape)
    rotation = {"epsilon": epsilon, "head_dim": shape.head_dim}
    k_scale, v_scale = load_fixed_scales(refs, kv_head)
    q = rotated(raw_q, angles, **rotation).astype(refs.heads.dtype)

    def attend_new(carry):
        new_k = rotated(raw_k, angles, **rotation)
        k = written.encode([new_k], fixed_scale=k_scale, interpret=shape.interpret)
        v = written.encode([new_v], fixed_scale=v_scale, interpret=shape.interpret)
        is_first = queries.is_query & (queries.head % shape.group == 0)
        store_new_token(
            written,
            table_ref,
            row=row,
            position=position,
            kv_head=kv_head,
            is_first=is_first,
            k=k,
            v=v,
            shape=shape,
        )
        return softmax_step_of_one(carry, score=_score(q, k, shape), v=_decoded(v), shape=shape)

    return attend_new, q


def _score(q: Array, k: Encoded, shape: KernelShape) -> Array:
    """The score of each query and its own key."""
    (part,) = k.parts
    score = (q.astype(jnp.float32) * part.astype(jnp.float32)).sum(1)
    return soft_capped(score if k.scale is None else score * k.scale, shape)


def _decoded(v: Encoded) -> Array:
    (part,) = v.parts
    return part if v.scale is None else part.astype(jnp.float32) * v.scale[:, None]
