"""Ragged causal prefill in Pallas on Mosaic GPU, for Hopper: the call."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.device import target_device
from pallas_kernels.paged_attention.mosaic.copies import TRANSFORMS
from pallas_kernels.paged_attention.mosaic.kernel import kernel
from pallas_kernels.paged_attention.mosaic.serves import TILE
from pallas_kernels.paged_attention.mosaic.shape import (
    ATTENDING,
    CHUNK,
    NUM_QUERY_TILES,
    NUM_STAGES,
    QUERY_ROWS,
    Barriers,
    Shape,
    Work,
)
from pallas_kernels.paged_attention.triton.query_blocks import QueryBlock, query_blocks

MOST_HEADS = 4  # of a group in a piece of work; more would not share more, and leave it fewer tokens


@functools.partial(jax.jit, static_argnames=("scale",))
def call_extend(
    q: Array, kv_pages: Array, page_table: Array, query_starts: Array, lengths: Array, *, scale: float
) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    shape = _shape(q, kv_pages, scale)
    work = _longest_first(query_blocks(query_starts, lengths, q.shape[0], shape.block_tokens))
    call = plgpu.kernel(
        functools.partial(kernel, shape=shape),
        out_type=jax.ShapeDtypeStruct(q.shape, q.dtype),
        scratch_types=_shared_memory(shape, q.dtype),
        grid=(shape.num_programs,),
        grid_names=("program",),
        num_threads=ATTENDING + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            approx_math=True,  # exp2 in one instruction
            unsafe_no_auto_barriers=True,  # the kernel has its own
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        kernel_name="paged_attention_extend",
    )
    rows_of_kv = kv_pages.reshape(-1, shape.num_kv_heads * shape.head_dim)
    fields = jnp.stack([getattr(work, name) for name in Work._fields if name != "head"])
    num_blocks = jnp.sum(work.num_queries > 0, dtype=jnp.int32).reshape(1)
    return call(q, rows_of_kv, page_table, fields, num_blocks)


def _shape(q: Array, kv_pages: Array, scale: float) -> Shape:
    _, num_heads, head_dim = q.shape
    _, num_pages, page_size, num_kv_heads, _ = kv_pages.shape
    return Shape(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        page_size=page_size,
        num_pages=num_pages,
        heads=math.gcd(num_heads // num_kv_heads, MOST_HEADS),
        tile=TILE,
        scale=scale,
        num_programs=target_device().num_multiprocessors,
    )


def _longest_first(work: QueryBlock) -> QueryBlock:
    """The newest positions first, of whatever row, and blocks without queries last.

    By comparing all with all: XLA has all fields in their places in a few small kernels, once for all layers.
    """
    key = jnp.where(work.num_queries > 0, work.position, jnp.iinfo(jnp.int32).min)
    index = jnp.arange(key.shape[0], dtype=jnp.int32)
    comes_before = (key[:, None] > key) | ((key[:, None] == key) & (index[:, None] < index))
    place = jnp.sum(comes_before, axis=0, dtype=jnp.int32)

    def in_place(field: Array) -> Array:
        return jnp.sum(jnp.where(place[:, None] == index, field[:, None], 0), axis=0, dtype=jnp.int32)

    return QueryBlock(*map(in_place, work))


def _shared_memory(shape: Shape, dtype) -> list:
    """In the order of `Refs`."""

    def tiles(*sizes: int):
        return plgpu.SMEM(sizes, dtype, transforms=TRANSFORMS)

    keys_or_values = tiles(NUM_STAGES, shape.tile, shape.head_dim)
    queries = tiles(NUM_QUERY_TILES, shape.chunks, ATTENDING, QUERY_ROWS, CHUNK)
    return [queries, keys_or_values, keys_or_values, plgpu.SMEM((2 * len(Barriers.arrivals),), jnp.int32)]
