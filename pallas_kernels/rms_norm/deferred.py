"""The second half of an RMSNorm, where its first half is in the weights of the product behind it.

    norm(x) @ w = (x / sqrt(mean(x ** 2) + epsilon) * scale) @ w = factor * (x @ (scale[:, None] * w))

with one factor a row, which whoever reads the product may apply: so there is no kernel between x and the product.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array, Float, Float32

from pallas_kernels.triton_call import next_power_of_two


class DeferredNorm(NamedTuple):
    """Each row of a product is to be multiplied with its factor, 1 / sqrt(mean(x ** 2) + epsilon), in float32."""

    x: Float[Array, "rows features"]
    epsilon: float

    def factors(self) -> Float32[Array, " rows"]:
        """In plain jax.numpy."""
        return 1 / jnp.sqrt(jnp.mean(self.x.astype(jnp.float32) ** 2, axis=-1) + self.epsilon)

    def check(self, num_rows: int) -> None:
        """Raises ValueError where the product has another number of rows."""
        if self.x.ndim != 2 or self.x.shape[0] != num_rows:
            raise ValueError(f"the deferred norm is of x {self.x.shape}; give [{num_rows}, features], as the product")


def load_factor(x_ref, row, epsilon: float) -> Array:
    """The factor of a row, in a kernel on Triton."""
    features = x_ref.shape[1]
    column = jnp.arange(next_power_of_two(features))
    inside = None if column.shape[0] == features else column < features
    x = plt.load(x_ref.at[row, column], mask=inside, other=None if inside is None else 0).astype(jnp.float32)
    return jax.lax.rsqrt((x * x).sum(0) / features + epsilon)
