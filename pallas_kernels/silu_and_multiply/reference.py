"""SiLU and multiply in plain jax.numpy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def silu_and_multiply(gate_up: Array) -> Array:
    """See `pallas_kernels.silu_and_multiply.silu_and_multiply`."""
    gate, up = jnp.split(gate_up.astype(jnp.float32), 2, axis=-1)
    return (gate * jax.nn.sigmoid(gate) * up).astype(gate_up.dtype)
