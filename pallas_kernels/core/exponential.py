"""The exponential function of a kernel, and the maximum that is subtracted before it."""

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.triton_call import LOG2_E, exp2_scaled


def exp(x: Array, *, interpret: bool) -> Array:
    """exp(x) in float32, in two instructions; denormal results are flushed to zero."""
    return exp2_scaled(x, LOG2_E, jnp.zeros_like(x), interpret=interpret)


def finite_or_zero(largest: Array) -> Array:
    """The maximum to subtract: 0 where all values are -inf, since -inf - -inf would be NaN."""
    return jnp.where(largest == -jnp.inf, 0, largest)
