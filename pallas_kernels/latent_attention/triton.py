"""Split-KV decode of latent attention in Pallas on Triton.

A program serves a block of query heads of one row. A tile of the cache is read into shared memory once and
used twice: all its columns as keys, the latent ones as values. Programs of one row that run side by side
share it in the L2 cache.

With 64 heads a program, Hopper's own matrix instruction (wgmma) does both matmuls, and shared memory is the
bottleneck: the queries and two tiles of 64 positions fill it. Two branches are there for their effect on
Triton's compiler:

- Around the mask, which all tiles but a row's last skip. Where a matmul feeds another one, Triton gives all
  its warps rows and none of them columns; with 64 rows, both groups of four warps would compute all the
  scores. It does not see the other matmul beyond a branch.
- With `early_loads`, around the softmax and the values; it is gone in the compiled kernel. Triton starts the
  loads of the next tile after the matmuls of this one, which leaves only the values' to hide them. It puts a
  branch that nothing waits for after the loads.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.epilogues import store_attention
from pallas_kernels.core.online_softmax import MASKED_SCORE, KernelShape, soft_capped
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.splits import merge_splits, partial_shapes, split_range
from pallas_kernels.core.triton_call import (
    MIN_DOT_SIZE,
    ceil_div,
    exp2_scaled,
    next_power_of_two,
    triton_call,
)
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
        blocks = mla_blocks(MlaCall.of(q_latent, q_rope, kv_pages, page_table))
    _check_blocks(blocks, q_latent.dtype)
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
    if blocks.early_loads and not uses_wgmma(blocks.heads, blocks.num_warps, dtype.itemsize):
        raise ValueError(
            f"early_loads with {blocks.heads} heads of {dtype} a program: they need the second buffer for a "
            "tile that Triton allocates for wgmma alone, which takes 64 heads of 16 bits"
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
            results, carry, row=row, head=head, is_query=is_query, split=split, shape=shape, normalize=_mean
        )

    @pl.when(begin < end)
    def _():
        q = _load_heads(q_latent_ref, row, head, shape), _load_heads(q_rope_ref, row, head, shape)
        row_id = row if row_ids_ref is None else row_ids_ref[row]
        store(_attend(q, row_id, begin, end, kv_ref, table_ref, shape, blocks))

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


def _attend(q, row_id, begin, end, kv_ref, table_ref, shape: KernelShape, blocks: MlaBlocks):
    """The online softmax over the positions [begin, end), of which there is at least one: the unnormalized
    sum of values, the maximum score in units of log 2 and the sum of weights relative to it."""
    q_latent, q_rope = q
    latent_dim, rope_dim = q_latent.shape[1], q_rope.shape[1]
    # The maximum tells the compiler that there is at least 1: if it could skip the loop, it would wait for
    # each matmul inside.
    num_tiles = jnp.maximum(ceil_div(end - begin, blocks.tile), 1)

    def one_tile(i, carry):
        tile_begin = begin + i * blocks.tile
        # The last position for columns after the end: it was written, and is finite.
        position = jnp.minimum(tile_begin + jnp.arange(blocks.tile), end - 1)
        page = table_ref[row_id, shape.page_index(position)]
        offset = shape.page_offset(position)
        latent = kv_ref[page, offset, pl.ds(0, latent_dim)]
        rope = kv_ref[page, offset, pl.ds(latent_dim, rope_dim)]
        scores = _scores(q_latent, latent, shape) + _scores(q_rope, rope, shape)

        def values(acc, top, total):
            weight, rescale, top, total = _softmax(scores, tile_begin, end, top, total, shape)
            acc = acc * rescale[:, None] + plt.dot(
                weight.astype(latent.dtype), latent, precision=shape.precision
            )
            return acc, top, total

        if not blocks.early_loads:
            return values(*carry)
        # The loop's own condition, always true: see above.
        return jax.lax.cond(i < num_tiles, values, lambda *carry: carry, *carry)

    start = (
        jnp.zeros((blocks.heads, latent_dim), jnp.float32),
        jnp.full((blocks.heads,), MASKED_SCORE, jnp.float32),
        jnp.zeros((blocks.heads, blocks.tile), jnp.float32),
    )
    acc, top, total = jax.lax.fori_loop(0, num_tiles, one_tile, start)
    return acc, top, total.sum(1)


def _scores(q: Array, k: Array, shape: KernelShape) -> Array:
    """q . k, in a form that Triton does not merge with the sum that it is a part of."""
    scores = plt.dot(q, k.T, precision=shape.precision)
    if shape.interpret:
        return scores
    result = jax.ShapeDtypeStruct(scores.shape, scores.dtype)
    return plt.elementwise_inline_asm(
        "", args=[scores], constraints="=f,0", pack=1, result_shape_dtypes=[result]
    )[0]


def _softmax(scores, tile_begin, end, top, total, shape: KernelShape):
    """One step: the weights of the values, the factor of what was summed before, and the new maximum and
    sums.

    `total` [heads, tile] sums the weights per column, and its columns are summed after the last tile: a sum
    over them would cross the warps.
    """
    tile = scores.shape[1]
    position = tile_begin + jnp.arange(tile)
    seen = jax.lax.cond(
        tile_begin + tile > end,
        lambda scores: jnp.where((position < end)[None, :], scores, MASKED_SCORE),
        lambda scores: scores,
        soft_capped(scores, shape),
    )
    new_top = jnp.maximum(top, seen.max(1) * shape.log2_scale)
    shift = jnp.broadcast_to(new_top[:, None], seen.shape)
    weight = exp2_scaled(seen, shape.log2_scale, shift, interpret=shape.interpret)
    rescale = exp2_scaled(top, 1.0, new_top, interpret=shape.interpret)
    return weight, rescale, new_top, total * rescale[:, None] + weight


def _mean(acc: Array, total: Array) -> Array:
    """The weighted mean; zeros where nothing was seen. One division a head, and not one an element."""
    return acc * (1 / jnp.where(total == 0, 1, total))[:, None]
