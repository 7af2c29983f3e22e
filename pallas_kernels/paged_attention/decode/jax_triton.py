"""Split-KV decode in Triton proper, through jax-triton: what takes over when JAX drops Pallas on Triton.

docs/performance/jax-triton.md compares the two. The kernels are in a file of their own, since that one needs
Triton to be imported and this one is imported everywhere.
"""

import importlib
from typing import Any

import jax
from jaxtyping import Array

from pallas_kernels.core.jax_triton_call import CallKind, jax_triton_call, require_jax_triton
from pallas_kernels.core.kv_pages import AnyKVPages, KVPages
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.splits import partial_shapes
from pallas_kernels.core.triton_call import LOG2_E, MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks, DecodeCall, decode_blocks

MERGED_PER_THREAD = 32  # elements of the partial results; with many more they do not fit into registers


def decode(
    q: Array,
    kv_pages: AnyKVPages,
    page_table: Array,
    lengths: Array,
    *,
    sinks: Array | None,
    options,
    blocks: DecodeBlocks | None = None,
    call: CallKind = "auto",
) -> Array:
    """See `pallas_kernels.paged_attention.decode`. The blocks are those of the Pallas kernel: both are one
    design."""
    if not isinstance(kv_pages, KVPages):
        raise UnsupportedError(
            f"the kernel of 'jax-triton' reads KVPages, and not {type(kv_pages).__name__}; use 'pallas'"
        )
    require_jax_triton()
    kernels = importlib.import_module("pallas_kernels.paged_attention.decode.jax_triton_kernels")
    (rows, num_heads, _), num_kv_heads = q.shape, kv_pages.num_kv_heads
    if blocks is None:
        blocks = decode_blocks(DecodeCall.of(q, kv_pages, page_table))
    constants = _constants(q, kv_pages, page_table, sinks, options, blocks)
    results = jax_triton_call(
        kernels.decode_kernel,
        *(q, kv_pages.array, page_table, lengths, q if sinks is None else sinks),
        out_shape=_results(q, blocks.num_splits),
        grid=(ceil_div(num_kv_heads, blocks.kv_heads), rows, blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        name="paged_attention_decode",
        constants=constants if blocks.num_splits > 1 else {**constants, "top_ptr": None, "total_ptr": None},
        call=call,
    )
    if blocks.num_splits == 1:
        return results[0]
    padded_splits = next_power_of_two(blocks.num_splits)
    (out,) = jax_triton_call(
        kernels.merge_kernel,
        *(*results, lengths),
        out_shape=_results(q, num_splits=1),
        grid=(num_heads, rows),
        num_warps=_merge_warps(padded_splits * constants["PADDED_DIM"]),
        num_stages=1,
        name="paged_attention_decode_merge",
        constants={
            **{k: constants[k] for k in ("HEAD_DIM", "SLIDING_WINDOW", "PADDED_DIM", "TILE", "NUM_SPLITS")},
            "PADDED_SPLITS": padded_splits,
        },
        call=call,
    )
    return out


def _merge_warps(num_elements: int) -> int:
    return max(1, min(16, num_elements // (32 * MERGED_PER_THREAD)))


def _results(q: Array, num_splits: int) -> list[jax.ShapeDtypeStruct]:
    """The attention itself, or what `merge_kernel` takes: accumulator, maximum and sum of every split."""
    rows, num_heads, head_dim = q.shape
    if num_splits == 1:
        return [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    return partial_shapes(rows, num_heads, num_splits=num_splits, dim=head_dim)


def _constants(
    q: Array, kv_pages: AnyKVPages, page_table: Array, sinks: Array | None, options, blocks: DecodeBlocks
) -> dict[str, Any]:
    """The constants that `decode_kernel` is compiled for."""
    num_heads, head_dim = q.shape[1:]
    scale = options.scale_for(head_dim)
    num_queries = blocks.kv_heads * (num_heads // kv_pages.num_kv_heads)
    return {
        "NUM_HEADS": num_heads,
        "NUM_KV_HEADS": kv_pages.num_kv_heads,
        "HEAD_DIM": head_dim,
        "NUM_PAGES": kv_pages.num_pages,
        "PAGE_SIZE": kv_pages.page_size,
        "MAX_PAGES": page_table.shape[1],
        "LOG2_SCALE": LOG2_E * (scale if options.soft_cap is None else options.soft_cap),
        "LOG2_CAP_SCALE": None if options.soft_cap is None else 2 * LOG2_E * scale / options.soft_cap,
        "SLIDING_WINDOW": options.sliding_window,
        "HAS_SINKS": sinks is not None,
        # Of float32 only: three TF32 products come within a few units of its last place, on tensor cores.
        "PRECISION": "tf32x3",
        "NUM_QUERIES": max(MIN_DOT_SIZE, next_power_of_two(num_queries)),
        "PADDED_DIM": max(MIN_DOT_SIZE, next_power_of_two(head_dim)),
        "KV_HEADS": blocks.kv_heads,
        "TILE": blocks.tile,
        "NUM_SPLITS": blocks.num_splits,
    }
