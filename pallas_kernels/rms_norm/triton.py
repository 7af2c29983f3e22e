"""RMSNorm in Pallas on Triton: each element is read once and written once, and stays in registers in
between."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.rowwise.blocks import RowBlocks, check_features
from pallas_kernels.core.rowwise.columns import cut_columns
from pallas_kernels.core.rowwise.rows import ProgramRows, load_vector
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.rms_norm.tuning import add_rms_norm_blocks, rms_norm_blocks


def rms_norm(
    x: Array, weight: Array, epsilon: float, *, interpret: bool, blocks: RowBlocks | None = None
) -> Array:
    """See `pallas_kernels.rms_norm.rms_norm`."""
    flat = x.reshape(-1, x.shape[-1])
    blocks = blocks or rms_norm_blocks(flat.shape[0], flat.shape[1], x.dtype.itemsize)
    (out,) = _call((flat,), weight, epsilon, blocks, interpret, "rms_norm")
    return out.reshape(x.shape)


def add_rms_norm(
    x: Array,
    residual: Array,
    weight: Array,
    epsilon: float,
    *,
    interpret: bool,
    blocks: RowBlocks | None = None,
) -> tuple[Array, Array]:
    """See `pallas_kernels.rms_norm.add_rms_norm`."""
    flat = x.reshape(-1, x.shape[-1])
    blocks = blocks or add_rms_norm_blocks(flat.shape[0], flat.shape[1], x.dtype.itemsize)
    inputs = flat, residual.reshape(flat.shape)
    normalized, new_residual = _call(inputs, weight, epsilon, blocks, interpret, "add_rms_norm")
    return normalized.reshape(x.shape), new_residual.reshape(x.shape)


def _call(
    inputs: tuple[Array, ...], weight: Array, epsilon: float, blocks: RowBlocks, interpret: bool, name: str
):
    """One result per input: their sum normalized and, where there are two, their sum."""
    check_features(inputs[0].shape[1])
    return triton_call(
        functools.partial(_kernel, num_inputs=len(inputs), epsilon=epsilon, blocks=blocks),
        *(*inputs, weight),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs],
        grid=(ceil_div(inputs[0].shape[0], blocks.rows),),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name=name,
    )


def _kernel(*refs, num_inputs, epsilon, blocks):
    input_refs = refs[:num_inputs]
    weight_ref = refs[num_inputs]
    out_ref, *sum_refs = refs[num_inputs + 1 :]
    num_rows, features = out_ref.shape
    rows = ProgramRows.of_program(num_rows, blocks)
    pieces = cut_columns(features, blocks.pieces)
    weights = [load_vector(weight_ref, columns, blocks.rows) for columns in pieces]
    loaded = [[rows.load(ref, columns) for ref in input_refs] for columns in pieces]
    rounded = [_rounded_sum(inputs) for inputs in loaded]
    wide = [x.astype(jnp.float32) for x in rounded]
    mean_square = functools.reduce(jnp.add, [(x * x).sum(1) for x in wide]) / features
    scale = jax.lax.rsqrt(mean_square + epsilon)[:, None]
    for columns, x, total, weight in zip(pieces, wide, rounded, weights, strict=True):
        rows.store(out_ref, columns, x * scale * weight.astype(jnp.float32))
        for ref in sum_refs:
            rows.store(ref, columns, total)


def _rounded_sum(inputs):
    """The sum in the inputs' dtype: the norm is that of the rounded sum, which the caller gets as well."""
    if len(inputs) == 1:
        return inputs[0]
    return functools.reduce(jnp.add, [x.astype(jnp.float32) for x in inputs]).astype(inputs[0].dtype)
