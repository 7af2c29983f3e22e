"""Softmax of rows that no program can hold: they are read twice, the second time backwards and mostly from
the cache.

A program goes over a row, or over a part of one, in chunks, which are tiles [depth, threads, vector] of
consecutive columns. Each thread keeps the largest entry it has seen and the sum of exponentials relative to
that; only at the end do the threads meet. Where several programs share a row they leave their two numbers to
a second kernel, which merges those of all parts and then writes what the first kernel's programs read.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.device import THREADS_PER_WARP, VECTOR_BYTES
from pallas_kernels.core.exponential import exp, finite_or_zero
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two, triton_call
from pallas_kernels.softmax.tuning import LongBlocks


def softmax(x: Array, blocks: LongBlocks, *, interpret: bool) -> Array:
    """See `pallas_kernels.softmax.softmax`, for x [rows, features]."""
    num_rows = x.shape[0]
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)

    def call(kernel, *operands, out_shape, name):
        return triton_call(
            functools.partial(kernel, blocks=blocks, exp=functools.partial(exp, interpret=interpret)),
            *operands,
            out_shape=out_shape,
            grid=(num_rows * blocks.splits,),
            num_warps=blocks.num_warps,
            num_stages=1,
            interpret=interpret,
            name=name,
        )

    if blocks.splits == 1:
        return call(_row_kernel, x, out_shape=[out], name="softmax_rows")[0]
    per_part = jax.ShapeDtypeStruct((num_rows, blocks.splits), jnp.float32)
    statistics = call(_statistics_kernel, x, out_shape=[per_part, per_part], name="softmax_statistics")
    return call(_parts_kernel, x, *statistics, out_shape=[out], name="softmax_parts")[0]


def _row_kernel(x_ref, out_ref, *, blocks, exp):
    part = _Part.of_program(x_ref, blocks)
    largest, total = _statistics(part, x_ref, exp)
    _write(part, x_ref, out_ref, largest, total, exp)


def _statistics_kernel(x_ref, largest_ref, total_ref, *, blocks, exp):
    part = _Part.of_program(x_ref, blocks)
    largest_ref[part.row, part.split], total_ref[part.row, part.split] = _statistics(part, x_ref, exp)


def _parts_kernel(x_ref, largest_ref, total_ref, out_ref, *, blocks, exp):
    part = _Part.of_program(x_ref, blocks)
    split = jnp.arange(next_power_of_two(blocks.splits))
    inside = split < blocks.splits
    of_parts = plt.load(largest_ref.at[part.row, split], mask=inside, other=-jnp.inf)
    totals = plt.load(total_ref.at[part.row, split], mask=inside, other=0)
    largest, total = _merge(of_parts, totals, exp)
    _write(part, x_ref, out_ref, largest, total, exp)


@dataclass(frozen=True)
class _Part:
    """The columns of a row that a program goes over: `num_chunks` tiles, of which the last may lie outside
    the row."""

    row: Array
    split: Array
    features: int
    num_chunks: int
    tile: tuple[int, int, int]
    eviction_policy: str | None

    @classmethod
    def of_program(cls, x_ref, blocks: LongBlocks) -> "_Part":
        features = x_ref.shape[1]
        itemsize = jnp.dtype(x_ref.dtype).itemsize
        row, split = (operation(pl.program_id(0), blocks.splits) for operation in (jax.lax.div, jax.lax.rem))
        vector = VECTOR_BYTES // itemsize
        threads = blocks.num_warps * THREADS_PER_WARP
        tile = blocks.chunk // (threads * vector), threads, vector
        num_chunks = ceil_div(features, blocks.splits * blocks.chunk)
        return cls(row, split, features, num_chunks, tile, "evict_first" if blocks.evict_first else None)

    def columns(self, i) -> tuple[Array, Array]:
        """The columns of chunk i, and which of them exist."""
        depth, threads, vector = self.tile
        chunk = depth * threads * vector
        column = (jnp.arange(depth) * threads * vector)[:, None, None] + jnp.arange(vector)[None, None, :]
        column += (jnp.arange(threads) * vector)[None, :, None] + (self.split * self.num_chunks + i) * chunk
        return column, column < self.features

    def load(self, ref, i, eviction_policy: str | None) -> Array:
        """Chunk i, and -inf where there is none."""
        column, inside = self.columns(i)
        inside &= (i >= 0) & (i < self.num_chunks)
        return plt.load(
            ref.at[self.row, column], mask=inside, other=-jnp.inf, eviction_policy=eviction_policy
        )


def _statistics(part, x_ref, exp):
    """The part's largest entry and its sum of exp(x - largest), which is 0 where all are -inf."""

    def one_chunk(i, carry):
        largest, total, x = carry
        following = part.load(x_ref, i + 1, None)  # in flight while this chunk is added
        wide = x.astype(jnp.float32)
        new_largest = jnp.maximum(largest, wide.max(2).max(0))
        shift = finite_or_zero(new_largest)
        added = exp(wide - shift[None, :, None]).sum(2).sum(0)
        return new_largest, total * exp(largest - shift) + added, following

    threads = part.tile[1]
    nothing = jnp.full((threads,), -jnp.inf), jnp.zeros((threads,))
    largest, total, _ = jax.lax.fori_loop(
        0, part.num_chunks, one_chunk, (*nothing, part.load(x_ref, 0, None))
    )
    return _merge(largest, total, exp)


def _merge(largest, total, exp):
    """The largest of all, and the sum of exponentials relative to that."""
    row_largest = largest.max(0)
    return row_largest, (total * exp(largest - finite_or_zero(row_largest))).sum(0)


def _write(part, x_ref, out_ref, largest, total, exp):
    """The chunk that was read last comes first. A row of only -inf has a total of 0 and gives 0 * inf, which
    is NaN."""
    shift = finite_or_zero(largest)
    scale = 1 / total

    def one_chunk(step, x):
        i = part.num_chunks - 1 - step
        following = part.load(x_ref, i - 1, part.eviction_policy)
        column, inside = part.columns(i)
        out = exp(x.astype(jnp.float32) - shift) * scale
        target = out_ref.at[part.row, column]
        plt.store(target, out.astype(out_ref.dtype), mask=inside, eviction_policy=part.eviction_policy)
        return following

    last = part.load(x_ref, part.num_chunks - 1, part.eviction_policy)
    jax.lax.fori_loop(0, part.num_chunks, one_chunk, last)
