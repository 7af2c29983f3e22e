"""Layer normalization in Pallas on Triton: each element is read once and written once, and stays in registers
in between."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.rowwise.blocks import RowBlocks, check_features
from pallas_kernels.core.rowwise.columns import cut_columns
from pallas_kernels.core.rowwise.rows import ProgramRows, is_inside, load_vector
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.layer_norm.tuning import layer_norm_blocks


def layer_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    epsilon: float,
    *,
    interpret: bool,
    blocks: RowBlocks | None = None,
) -> Array:
    """See `pallas_kernels.layer_norm.layer_norm`."""
    flat = x.reshape(-1, x.shape[-1])
    check_features(flat.shape[1])
    blocks = blocks or layer_norm_blocks(flat.shape[0], flat.shape[1], x.dtype.itemsize)
    has_weight, has_bias = weight is not None, bias is not None
    (out,) = triton_call(
        functools.partial(_kernel, has_weight=has_weight, has_bias=has_bias, epsilon=epsilon, blocks=blocks),
        *(operand for operand in (flat, weight, bias) if operand is not None),
        out_shape=[jax.ShapeDtypeStruct(flat.shape, x.dtype)],
        grid=(ceil_div(flat.shape[0], blocks.rows),),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="layer_norm",
    )
    return out.reshape(x.shape)


def _kernel(x_ref, *refs, has_weight, has_bias, epsilon, blocks):
    *vector_refs, out_ref = refs
    num_rows, features = x_ref.shape
    rows = ProgramRows.of_program(num_rows, blocks)
    pieces = cut_columns(features, blocks.pieces)
    vectors = [[load_vector(ref, columns, blocks.rows) for ref in vector_refs] for columns in pieces]
    loaded = [rows.load(x_ref, columns) for columns in pieces]
    wide = [x.astype(jnp.float32) for x in loaded]
    mean = (_row_sums(wide) / features)[:, None]
    centered = [_zero_outside(x - mean, columns) for x, columns in zip(wide, pieces, strict=True)]
    scale = jax.lax.rsqrt(_row_sums([x * x for x in centered]) / features + epsilon)[:, None]
    for columns, x, piece_vectors in zip(pieces, centered, vectors, strict=True):
        out = x * scale
        if has_weight:
            out = out * piece_vectors[0].astype(jnp.float32)
        if has_bias:
            out = out + piece_vectors[-1].astype(jnp.float32)
        rows.store(out_ref, columns, out)


def _row_sums(pieces):
    return functools.reduce(jnp.add, [piece.sum(1) for piece in pieces])


def _zero_outside(values, columns):
    inside = is_inside(columns)
    return values if inside is None else jnp.where(inside[None, :], values, 0)
