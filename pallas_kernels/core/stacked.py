"""The index of a layer in a stack, as an operand of a kernel.

With a constant instead, a model would trace and compile a kernel for each of its layers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import triton as plt
from jaxtyping import Array


def layer_index_operand(layer: int | Array) -> Array | np.ndarray:
    """The layer as int32 [1], which takes no kernel to make."""
    return (
        layer.astype(jnp.int32).reshape(1) if isinstance(layer, jax.Array) else np.asarray([layer], np.int32)
    )


def load_layer_index(layer_ref) -> Array:
    """The layer, in a kernel. The load's policy keeps it in the L2 cache until the next step, although all
    weights pass through that cache in between."""
    return plt.load(layer_ref.at[jnp.int32(0)], eviction_policy="evict_last")
