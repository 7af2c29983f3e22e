"""Ragged causal prefill in Pallas on Mosaic GPU, for Hopper."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.device import target_device
from pallas_kernels.paged_attention.mosaic import primitives as mg
from pallas_kernels.paged_attention.mosaic.kernel import ATTENDING, QUERY_ROWS, Barriers, Shape, kernel
from pallas_kernels.paged_attention.triton.query_blocks import QueryBlock, query_blocks

FIELDS = ("row", "token", "num_queries", "position", "length")  # of QueryBlock, as in kernel.Work


@functools.partial(jax.jit, static_argnames=("options", "tile", "num_stages", "num_query_buffers", "heads", "head_group", "quantum", "variant"))
def _extend(q, kv_pages, page_table, query_starts, lengths, *, options, tile, num_stages, num_query_buffers, heads=None, head_group=None, quantum=128, variant=""):
    """Jitted, so that all layers of a model share one trace of the kernel."""
    tokens, num_heads, head_dim = q.shape
    _, num_pages, page_size, num_kv_heads, _ = kv_pages.shape
    shape = Shape(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        page_size=page_size,
        num_pages=num_pages,
        max_pages=page_table.shape[1],
        heads=heads or math.gcd(num_heads // num_kv_heads, 4),
        scale=head_dim**-0.5 if options.scale is None else options.scale,
        tile=tile,
        num_stages=num_stages,
        num_query_buffers=num_query_buffers,
        num_programs=target_device().num_multiprocessors,
        head_group=head_group or num_heads // (heads or math.gcd(num_heads // num_kv_heads, 4)),
        variant=variant,
    )
    work = _longest_first(query_blocks(query_starts, lengths, tokens, ATTENDING * shape.tokens), quantum)
    num_blocks = jnp.sum(work.num_queries > 0, dtype=jnp.int32).reshape(1)
    fields = jnp.stack([getattr(work, name) for name in FIELDS])
    call = plgpu.kernel(
        functools.partial(kernel, shape=shape),
        out_type=jax.ShapeDtypeStruct(q.shape, q.dtype),
        scratch_types=_shared_memory(shape, q.dtype),
        grid=(shape.num_programs,),
        grid_names=("program",),
        num_threads=ATTENDING + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            unsafe_no_auto_barriers=True,
            reduction_scratch_bytes=0,
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        kernel_name="paged_attention_extend",
    )
    flat = kv_pages.reshape(2 * num_pages * page_size, num_kv_heads * head_dim)
    return call(q, flat, page_table, fields, num_blocks)


def _longest_first(work: QueryBlock, quantum: int) -> QueryBlock:
    """Those without queries last."""
    key = jnp.where(work.num_queries > 0, (work.position + 2**20) // quantum, -1)
    index = jnp.arange(key.shape[0])
    is_earlier = (key[:, None] > key[None, :]) | ((key[:, None] == key[None, :]) & (index[:, None] < index))
    place = jnp.sum(is_earlier, axis=0, dtype=jnp.int32)

    def in_place(field):
        return jnp.sum(jnp.where(place[:, None] == index, field[:, None], 0), axis=0, dtype=jnp.int32)

    return QueryBlock(*map(in_place, work))


def _shared_memory(shape: Shape, dtype) -> tuple:
    def tiles(*sizes):
        return plgpu.SMEM(sizes, dtype, transforms=mg.TRANSFORMS)

    kv = shape.num_stages, shape.tile, shape.head_dim
    queries = shape.num_query_buffers, shape.chunks, ATTENDING, QUERY_ROWS, mg.CHUNK
    num_barriers = len(Barriers(shape).arrivals)
    return tiles(*queries), tiles(*kv), tiles(*kv), plgpu.SMEM((2 * num_barriers,), jnp.int32)
