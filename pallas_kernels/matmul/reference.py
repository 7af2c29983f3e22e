"""The product and what is around it in plain jax.numpy and float32."""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.matmul.contract import Fusion


def matmul(
    x: Array, w: Array, *, layer: int | Array | None, transposed: bool, fusion: Fusion, out_dtype: DTypeLike
) -> Array:
    """See `pallas_kernels.matmul.matmul`."""
    matrix = w if layer is None else w[layer]
    formula = "bi,oi->bo" if transposed else "bi,io->bo"
    wide = x.astype(jnp.float32)
    if fusion.norm is not None:
        scale, epsilon = fusion.norm
        scale = scale if scale.ndim == 1 else scale[layer]
        root_mean_square = jnp.sqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + epsilon)
        wide = wide / root_mean_square * scale.astype(jnp.float32)
    y = jnp.einsum(formula, wide, matrix.astype(jnp.float32), precision=Precision.HIGHEST)
    if fusion.bias is not None:
        bias = fusion.bias if fusion.bias.ndim == 1 else fusion.bias[layer]
        y = y + bias.astype(jnp.float32)
    if fusion.gated:
        gate, other = jnp.split(y, 2, axis=-1)
        y = jax.nn.silu(gate) * other
    if fusion.residual is not None:
        y = fusion.residual.astype(jnp.float32) + y
    return y.astype(out_dtype)
