"""Softmax of rows that a program can hold: each element is read and written once, and lies in registers between."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.rms_norm.columns import cut_columns
from pallas_kernels.rms_norm.rows import for_each_block, num_programs
from pallas_kernels.rms_norm.tuning import Blocks
from pallas_kernels.softmax.triton.exponential import exp
from pallas_kernels.triton_call import triton_call


def softmax(x: Array, blocks: Blocks, *, interpret: bool) -> Array:
    """See `pallas_kernels.softmax.softmax`, for x [rows, features]."""
    (out,) = triton_call(
        functools.partial(_kernel, blocks=blocks, interpret=interpret),
        x,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
        grid=(num_programs(x.shape[0], blocks),),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="softmax_whole_rows",
    )
    return out


def _kernel(x_ref, out_ref, *, blocks, interpret):
    num_rows, features = x_ref.shape
    pieces = cut_columns(features, blocks.pieces)

    def load(rows):
        return [rows.load(x_ref, columns, outside=-jnp.inf) for columns in pieces]

    def normalize(rows, loaded):
        wide = [x.astype(jnp.float32) for x in loaded]
        largest = functools.reduce(jnp.maximum, [x.max(1) for x in wide])[:, None]
        exponentials = [exp(x - largest, interpret=interpret) for x in wide]
        scale = 1 / functools.reduce(jnp.add, [x.sum(1) for x in exponentials])[:, None]
        for columns, x in zip(pieces, exponentials, strict=True):
            rows.store(out_ref, columns, x * scale)

    for_each_block(num_rows, blocks, load, normalize)
