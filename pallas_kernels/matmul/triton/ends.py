"""The end of a product: what becomes of its sums."""

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.gating import Activation, activate_and_multiply


def finish(
    matrices: list[Array], factor: Array | None, residual: Array | None, activation: Activation
) -> Array:
    """The result in float32 from the sums of each matrix, and the norm's factor of each row."""
    if factor is not None:
        matrices = [sums * factor for sums in matrices]
    result = matrices[0]
    if len(matrices) == 2:
        result = activate_and_multiply(matrices[0], matrices[1], activation)
    return result if residual is None else residual.astype(jnp.float32) + result
