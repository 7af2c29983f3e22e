"""Which programs run, and what adds up the splits of a block of outputs."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.matvec.triton.sums import Shape, columns, program_sums
from pallas_kernels.matvec.tuning import Blocks, matvec_blocks
from pallas_kernels.selection import UnsupportedError
from pallas_kernels.triton_call import ceil_div, triton_call

MAX_BATCH = 16


def matvec(
    x: Array,
    w: Array,
    layer: int | None,
    transposed: bool,
    out_dtype: DTypeLike,
    *,
    interpret: bool,
    blocks: Blocks | None = None,
) -> Array:
    """One program per (block of outputs, split of the inputs). See `pallas_kernels.matvec.matvec`."""
    batch, num_in = x.shape
    num_out = w.shape[-2 if transposed else -1]
    if batch > MAX_BATCH:
        raise UnsupportedError(
            f"batch={batch}: the kernel serves at most {MAX_BATCH} rows; use jnp.dot, which keeps up with the weights"
        )
    if x.dtype not in (jnp.bfloat16, jnp.float32):
        raise UnsupportedError(
            f"x and w in {x.dtype}: the kernel serves bfloat16 and float32; cast them or use jnp.dot"
        )
    blocks = blocks or matvec_blocks(batch, num_in, num_out, transposed, x.dtype.itemsize)
    assert (blocks.dot_parts is None) == (x.dtype == jnp.float32), f"{blocks} cannot compute in {x.dtype}"
    shape = Shape(batch, num_in, num_out, layer, transposed, blocks)
    return _run(x, w, shape, jax.ShapeDtypeStruct((batch, num_out), out_dtype), interpret)


def _run(x: Array, w: Array, shape: Shape, out: jax.ShapeDtypeStruct, interpret: bool) -> Array:
    num_splits = shape.blocks.num_splits
    if num_splits == 1:
        return _call(_whole_kernel, x, w, shape, out, interpret)
    sums = _call(_split_kernel, x, w, shape, jax.ShapeDtypeStruct((num_splits, *out.shape), jnp.float32), interpret)
    # Additions and not a reduction, for XLA to fuse them into what reads the result.
    return functools.reduce(jnp.add, [sums[split] for split in range(num_splits)]).astype(out.dtype)


def _call(kernel: Callable, x: Array, w: Array, shape: Shape, out: jax.ShapeDtypeStruct, interpret: bool) -> Array:
    blocks = shape.blocks
    (result,) = triton_call(
        functools.partial(kernel, shape=shape),
        *(x, w),
        out_shape=[out],
        grid=(ceil_div(shape.num_out, blocks.block_out), blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="matvec",
    )
    return result


def _whole_kernel(x_ref, w_ref, out_ref, *, shape):
    _store(out_ref, (), program_sums(x_ref, w_ref, shape), columns(shape), shape)


def _split_kernel(x_ref, w_ref, partial_ref, *, shape):
    _store(partial_ref, (pl.program_id(1),), program_sums(x_ref, w_ref, shape), columns(shape), shape)


def _store(ref, index, sums, column, shape):
    """Stores a tuple of `batch` rows, or one array of at least as many, at ref[*index, :, column]."""
    if isinstance(sums, tuple):
        for number, values in enumerate(sums):
            plt.store(ref.at[(*index, number, column)], values.astype(ref.dtype), mask=column < shape.num_out)
        return
    row = jnp.arange(sums.shape[0])
    inside = (row < shape.batch)[:, None] & (column < shape.num_out)[None, :]
    plt.store(ref.at[(*index, row[:, None], column[None, :])], sums.astype(ref.dtype), mask=inside)
