"""RMSNorm in plain jax.numpy."""

import jax.numpy as jnp
from jaxtyping import Array


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """See `pallas_kernels.rms_norm.rms_norm`."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide**2, axis=-1, keepdims=True)
    return (wide / jnp.sqrt(mean_square + epsilon) * weight.astype(jnp.float32)).astype(x.dtype)
