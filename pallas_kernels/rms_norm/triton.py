"""RMSNorm in Pallas on Triton: each row is read once and written once."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.rms_norm import tuning
from pallas_kernels.triton_call import next_power_of_two, triton_call


def rms_norm(x: Array, weight: Array, epsilon: float, *, interpret: bool) -> Array:
    """See `pallas_kernels.rms_norm.rms_norm`."""
    features = x.shape[-1]
    flat = x.reshape(-1, features)
    blocks = tuning.blocks(flat.shape[0], features)
    (out,) = triton_call(
        functools.partial(_kernel, block_rows=blocks.rows, epsilon=epsilon),
        *(flat, weight),
        out_shape=[jax.ShapeDtypeStruct(flat.shape, x.dtype)],
        grid=(-(-flat.shape[0] // blocks.rows),),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="rms_norm",
    )
    return out.reshape(x.shape)


def _kernel(x_ref, weight_ref, out_ref, *, block_rows, epsilon):
    num_rows, features = x_ref.shape
    row = pl.program_id(0) * block_rows + jnp.arange(block_rows)
    column = jnp.arange(next_power_of_two(features))
    inside = (row < num_rows)[:, None] & (column < features)[None, :]
    block = (row[:, None], column[None, :])

    x = plt.load(x_ref.at[block], mask=inside, other=0).astype(jnp.float32)
    weight = plt.load(weight_ref.at[column], mask=column < features, other=0).astype(jnp.float32)
    mean_square = (x * x).sum(1) / features
    normalized = x * jax.lax.rsqrt(mean_square + epsilon)[:, None] * weight[None, :]
    plt.store(out_ref.at[block], normalized.astype(out_ref.dtype), mask=inside)
