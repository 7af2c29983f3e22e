"""Layer normalization in plain jax.numpy."""

import jax.numpy as jnp
from jaxtyping import Array


def layer_norm(x: Array, weight: Array | None, bias: Array | None, epsilon: float) -> Array:
    """See `pallas_kernels.layer_norm.layer_norm`."""
    wide = x.astype(jnp.float32)
    centered = wide - jnp.mean(wide, axis=-1, keepdims=True)
    out = centered / jnp.sqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + epsilon)
    if weight is not None:
        out = out * weight.astype(jnp.float32)
    if bias is not None:
        out = out + bias.astype(jnp.float32)
    return out.astype(x.dtype)
