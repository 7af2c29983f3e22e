"""Ragged causal prefill in Pallas on Mosaic GPU, for Hopper: the call."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.kv_pages import KVPages
from pallas_kernels.paged_attention.extend.mosaic.copies import TRANSFORMS
from pallas_kernels.paged_attention.extend.mosaic.kernel import kernel
from pallas_kernels.paged_attention.extend.mosaic.serves import TILE
from pallas_kernels.paged_attention.extend.mosaic.shape import (
    ATTENDING,
    CHUNK,
    NUM_QUERY_TILES,
    NUM_STAGES,
    QUERY_ROWS,
    Barriers,
    Shape,
)
from pallas_kernels.paged_attention.extend.query_blocks import newest_positions_first

ROWS_OF_A_MODULE = 256
MAX_HEADS = 4  # of a group in a piece of work; more would not share more, and leave it fewer tokens


@functools.partial(jax.jit, static_argnames=("scale",))
def call_extend(
    q: Array, kv_pages: KVPages, page_table: Array, query_starts: Array, lengths: Array, *, scale: float
) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    shape = _shape(q, kv_pages, scale)
    page_table, query_starts, lengths = _with_empty_rows(page_table, query_starts, lengths)
    work, num_blocks = newest_positions_first(
        query_starts, lengths, num_tokens=q.shape[0], block_tokens=shape.block_tokens
    )
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
    rows_of_kv = kv_pages.array.reshape(-1, shape.num_kv_heads * shape.head_dim)
    return call(q, rows_of_kv, page_table, work, num_blocks)


def _shape(q: Array, kv_pages: KVPages, scale: float) -> Shape:
    _, num_heads, head_dim = q.shape
    return Shape(
        num_heads=num_heads,
        num_kv_heads=kv_pages.num_kv_heads,
        head_dim=head_dim,
        page_size=kv_pages.page_size,
        num_pages=kv_pages.num_pages,
        heads=math.gcd(num_heads // kv_pages.num_kv_heads, MAX_HEADS),
        tile=TILE,
        scale=scale,
        num_programs=target_device().num_multiprocessors,
    )


def _with_empty_rows(page_table: Array, query_starts: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """A multiple of ROWS_OF_A_MODULE rows: batches of few and of many rows are then served by one compiled
    kernel, which takes a second and more to compile, also where XLA's own part of a program comes from its
    cache."""
    missing = -lengths.shape[0] % ROWS_OF_A_MODULE
    return (
        jnp.pad(page_table, ((0, missing), (0, 0))),
        jnp.pad(query_starts, (0, missing), mode="edge"),
        jnp.pad(lengths, (0, missing)),
    )


def _shared_memory(shape: Shape, dtype) -> list:
    """The arrays in shared memory, in the order of `Refs`."""

    def tiles(*sizes: int):
        return plgpu.SMEM(sizes, dtype, transforms=TRANSFORMS)

    keys_or_values = tiles(NUM_STAGES, shape.tile, shape.head_dim)
    queries = tiles(NUM_QUERY_TILES, shape.chunks, ATTENDING, QUERY_ROWS, CHUNK)
    return [queries, keys_or_values, keys_or_values, plgpu.SMEM((2 * len(Barriers.arrivals),), jnp.int32)]
