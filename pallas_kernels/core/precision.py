"""The precision of matrix products."""

import jax
import jax.numpy as jnp


def full_precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """The precision that keeps a product of float32 in float32, which tensor cores otherwise round to TF32;
    None, the default, for other dtypes."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
