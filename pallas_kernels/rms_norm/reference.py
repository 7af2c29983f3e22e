"""RMSNorm in plain jax.numpy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """See `pallas_kernels.rms_norm.rms_norm`."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide**2, axis=-1, keepdims=True)
    return (wide / jnp.sqrt(mean_square + epsilon) * weight.astype(jnp.float32)).astype(x.dtype)


def add_rms_norm(x: Array, residual: Array, weight: Array, epsilon: float) -> tuple[Array, Array]:
    """See `pallas_kernels.rms_norm.add_rms_norm`."""
    precision = jnp.finfo(x.dtype)
    # Under jit, XLA may normalize a sum of more digits than it returns: it drops a rounding that only a dtype
    # asks for.
    wide = jax.lax.reduce_precision(
        x.astype(jnp.float32) + residual.astype(jnp.float32), precision.nexp, precision.nmant
    )
    new_residual = wide.astype(x.dtype)
    return rms_norm(new_residual, weight, epsilon), new_residual
