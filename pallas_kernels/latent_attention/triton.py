"""Split-KV decode of latent attention in Pallas on Triton.

A program serves a block of query heads of one row: see `tiles`. Programs of one row that run side by side
share its tiles in the L2 cache. Where heads are few, a program serves those of several tokens of a prompt:
see `tokens`.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.epilogues import store_attention
from pallas_kernels.core.online_softmax import KernelShape
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.splits import merge_splits, partial_shapes, split_range
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two, triton_call
from pallas_kernels.latent_attention.tiles import Seen, attend, mean
from pallas_kernels.latent_attention.tokens import attend_tokens
from pallas_kernels.latent_attention.tuning import MlaBlocks, MlaCall, mla_blocks, uses_wgmma


def mla(
    q_latent: Array,
    q_rope: Array,
    kv_pages: Array,
    page_table: Array,
    lengths: Array,
    *,
    scale: float,
    soft_cap: float | None,
    row_ids: Array | None = None,
    blocks: MlaBlocks | None = None,
    interpret: bool,
) -> Array:
    """One program per (block of heads, query, split). See the package for the contract."""
    rows, num_heads, latent_dim = q_latent.shape
    _check_dims(latent_dim, q_rope.shape[-1])
    shape = _kernel_shape(q_latent, kv_pages, scale, soft_cap, interpret)
    if blocks is None:
        is_of_prompts = None if row_ids is None else True
        blocks = mla_blocks(MlaCall.of(q_latent, q_rope, kv_pages, page_table, is_of_prompts))
    _check_blocks(blocks, q_latent.dtype)
    if row_ids is not None and blocks.tokens > 1:
        operands = q_latent, q_rope, kv_pages, page_table, lengths, row_ids
        return attend_tokens(*operands, shape=shape, blocks=blocks)
    is_split = blocks.num_splits > 1
    whole = [jax.ShapeDtypeStruct(q_latent.shape, q_latent.dtype)]
    results = triton_call(
        functools.partial(_kernel, shape=shape, blocks=blocks),
        *(q_latent, q_rope, kv_pages, page_table, lengths, row_ids),
        out_shape=partial_shapes(rows, num_heads, num_splits=blocks.num_splits, dim=latent_dim)
        if is_split
        else whole,
        grid=(ceil_div(num_heads, blocks.heads), rows, blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="latent_attention",
    )
    if not is_split:
        return results[0]
    acc, top, total = results
    return merge_splits(acc, top, total, lengths, tile=blocks.tile, dtype=q_latent.dtype, interpret=interpret)


def _check_dims(latent_dim: int, rope_dim: int) -> None:
    for name, dim in (("latent", latent_dim), ("rotary", rope_dim)):
        if dim < MIN_DOT_SIZE or dim != next_power_of_two(dim):
            raise UnsupportedError(
                f"{dim} {name} dimensions: the kernel takes powers of two from {MIN_DOT_SIZE}; "
                'implementation="reference" takes any'
            )


def _check_blocks(blocks: MlaBlocks, dtype: jnp.dtype) -> None:
    if blocks.early_loads and not uses_wgmma(blocks.queries, blocks.num_warps, dtype.itemsize):
        raise ValueError(
            f"early_loads with {blocks.queries} heads of {dtype} a program: they need the second buffer for "
            "a tile that Triton allocates for wgmma alone, which takes 64 heads of 16 bits"
        )


def _kernel_shape(
    q_latent: Array, kv_pages: Array, scale: float, soft_cap: float | None, interpret: bool
) -> KernelShape:
    return KernelShape(
        num_heads=q_latent.shape[1],
        num_kv_heads=1,
        head_dim=q_latent.shape[2],
        page_size=kv_pages.shape[1],
        scale=scale,
        sliding_window=None,
        soft_cap=soft_cap,
        dot_dtype=q_latent.dtype,
        interpret=interpret,
    )


def _kernel(
    q_latent_ref,
    q_rope_ref,
    kv_ref,
    table_ref,
    length_ref,
    row_ids_ref,
    *results,
    shape: KernelShape,
    blocks: MlaBlocks,
):
    head_block, row, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    length = length_ref[row]
    begin, end = split_range(0, length, split=split, tile=blocks.tile, num_splits=blocks.num_splits)
    head = head_block * blocks.heads + jnp.arange(blocks.heads)

    def store(carry: tuple[Array, Array, Array]) -> None:
        is_query = head < shape.num_heads
        store_attention(
            results, carry, row=row, head=head, is_query=is_query, split=split, shape=shape, normalize=mean
        )

    @pl.when(begin < end)
    def _():
        q = _load_heads(q_latent_ref, row, head, shape), _load_heads(q_rope_ref, row, head, shape)
        row_id = row if row_ids_ref is None else row_ids_ref[row]
        store(attend(q, row_id, Seen(begin, end, end, end), kv_ref, table_ref, shape, blocks))

    if blocks.num_splits == 1:  # else the merge writes the rows of length 0

        @pl.when(length == 0)
        def _():
            acc = jnp.zeros((blocks.heads, shape.head_dim), jnp.float32)
            total = jnp.zeros((blocks.heads,), jnp.float32)
            store((acc, total, total))


def _load_heads(ref, row, head, shape: KernelShape):
    """ref[row, head, :], and zeros for the heads that a last block has too many."""
    column = jnp.arange(ref.shape[2])
    is_head = jnp.broadcast_to((head < shape.num_heads)[:, None], (head.shape[0], column.shape[0]))
    return plt.load(ref.at[row, head[:, None], column[None, :]], mask=is_head, other=0)
