"""The product in plain jax.numpy and float32."""

import jax.numpy as jnp
from jax.lax import Precision
from jax.typing import DTypeLike
from jaxtyping import Array


def matvec(x: Array, w: Array, layer: int | None, transposed: bool, out_dtype: DTypeLike) -> Array:
    """See `pallas_kernels.matvec.matvec`."""
    matrix = w if layer is None else w[layer]
    formula = "bi,oi->bo" if transposed else "bi,io->bo"
    wide = jnp.einsum(formula, x.astype(jnp.float32), matrix.astype(jnp.float32), precision=Precision.HIGHEST)
    return wide.astype(out_dtype)
