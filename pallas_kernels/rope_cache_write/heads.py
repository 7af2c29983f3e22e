"""What happens to a head in registers, in any kernel that takes it from a projection."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

KEYS, VALUES = 0, 1  # the first axis of kv_pages


def normalized(
    parts: Sequence[Array], scales: Sequence[Array], sum_of_squares: Array, head_dim: int, epsilon: float
) -> list[Array]:
    """The RMSNorm of heads, of which the parts [..., columns] are some columns and the sums [...] of all columns."""
    inverse_root = jax.lax.rsqrt(sum_of_squares / head_dim + epsilon)[..., None]
    return [part * inverse_root * scale.astype(jnp.float32) for part, scale in zip(parts, scales, strict=True)]


def turned(x: Array, partner: Array, cos: Array, sin: Array) -> Array:
    """A half of a head after the rotation that takes it towards its partner, the other half.

    The second half turns to the first; the first turns away from the second, with -sin.
    """
    return x * cos + partner * sin
