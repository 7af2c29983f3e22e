"""Softmax of rows that a program can hold: each element is read once and written once, and stays in registers
in between."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.exponential import exp
from pallas_kernels.core.rowwise.blocks import RowBlocks
from pallas_kernels.core.rowwise.columns import cut_columns
from pallas_kernels.core.rowwise.rows import ProgramRows
from pallas_kernels.core.triton_call import ceil_div, triton_call


def softmax(x: Array, blocks: RowBlocks, *, interpret: bool) -> Array:
    """See `pallas_kernels.softmax.softmax`, for x [rows, features]."""
    (out,) = triton_call(
        functools.partial(_kernel, blocks=blocks, interpret=interpret),
        x,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
        grid=(ceil_div(x.shape[0], blocks.rows),),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="softmax_whole_rows",
    )
    return out


def _kernel(x_ref, out_ref, *, blocks, interpret):
    num_rows, features = x_ref.shape
    rows = ProgramRows.of_program(num_rows, blocks)
    pieces = cut_columns(features, blocks.pieces)
    loaded = [rows.load(x_ref, columns, outside=-jnp.inf) for columns in pieces]
    wide = [x.astype(jnp.float32) for x in loaded]
    largest = functools.reduce(jnp.maximum, [x.max(1) for x in wide])[:, None]
    exponentials = [exp(x - largest, interpret=interpret) for x in wide]
    scale = 1 / functools.reduce(jnp.add, [x.sum(1) for x in exponentials])[:, None]
    for columns, x in zip(pieces, exponentials, strict=True):
        rows.store(out_ref, columns, x * scale)
