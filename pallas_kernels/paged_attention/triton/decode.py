"""Split-KV decode in Pallas on Triton."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from pallas_kernels.paged_attention.triton.tiles import attend_tiles, tile_shape
from pallas_kernels.paged_attention.tuning.decode import decode_blocks
from pallas_kernels.triton_call import MIN_DOT_SIZE, ceil_div, load_rows, triton_call


def decode(q: Array, kv_pages: Array, page_table: Array, lengths: Array, options, *, interpret: bool) -> Array:
    """One program per (row, KV head, split); XLA merges their partial results. See the package for the contract."""
    rows, num_heads, head_dim = q.shape
    num_kv_heads, max_positions = kv_pages.shape[3], page_table.shape[1] * kv_pages.shape[2]
    blocks = decode_blocks(rows, num_kv_heads, head_dim, max_positions, q.dtype.itemsize)
    shape = tile_shape(q, kv_pages, blocks.tile, options)
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
    split_positions = ceil_div(ceil_div(length - first, shape.tile), num_splits) * shape.tile
    begin = first + split * split_positions
    end = jnp.minimum(begin + split_positions, length)

    head = kv_head * shape.group + jnp.minimum(jnp.arange(query_rows), shape.group - 1)
    q = load_rows(q_ref, jnp.full((query_rows,), row), head, size=shape.head_dim, padded_size=shape.padded_dim)
    newest = jnp.full((query_rows,), length - 1)
    acc, top, total = attend_tiles(q, newest, begin, end, kv_ref, table_ref, row, kv_head, shape)
    acc_ref[row, kv_head, split, :, :] = acc
    top_ref[row, kv_head, split, :] = top
    total_ref[row, kv_head, split, :] = total
