"""SiLU and multiply in plain jax.numpy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.rms_norm import DeferredNorm


def silu_and_multiply(gate_up: Array, deferred_norm: DeferredNorm | None) -> Array:
    """See `pallas_kernels.silu_and_multiply.silu_and_multiply`."""
    wide = gate_up.astype(jnp.float32)
    if deferred_norm is not None:
        wide *= deferred_norm.factors()[:, None]
    gate, up = jnp.split(wide, 2, axis=-1)
    return (gate * jax.nn.sigmoid(gate) * up).astype(gate_up.dtype)
