"""The product of each head in plain jax.numpy and float32."""

import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array


def head_matmul(
    x: Array, weight: Array, *, layer: int | Array, rows: tuple[int, int], transposed: bool
) -> Array:
    """See `pallas_kernels.head_matmul.head_matmul`."""
    num_heads, columns = x.shape[1], weight.shape[2]
    of_heads = weight[layer].reshape(num_heads, -1, columns)[:, rows[0] : rows[1]].astype(jnp.float32)
    if transposed:
        of_heads = of_heads.swapaxes(1, 2)
    inputs = x[..., : of_heads.shape[1]].astype(jnp.float32)
    return jnp.einsum("thi,hio->tho", inputs, of_heads, precision=Precision.HIGHEST).astype(x.dtype)
