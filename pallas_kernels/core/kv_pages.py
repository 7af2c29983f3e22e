"""The pages of a KV cache, as the operations of attention take and return them.

A cache of another layout, such as one of quantized values with their scales, is another type behind the same
operations.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class KVPages:
    """Keys and values of one layer in one array: keys in array[0], values in array[1], both by page and
    position."""

    array: Float[Array, "2 num_pages page_size num_kv_heads head_dim"]

    @property
    def num_pages(self) -> int:
        return self.array.shape[1]

    @property
    def page_size(self) -> int:
        """Positions of a page."""
        return self.array.shape[2]

    @property
    def num_kv_heads(self) -> int:
        return self.array.shape[3]

    @property
    def head_dim(self) -> int:
        return self.array.shape[4]

    @property
    def dtype(self) -> jnp.dtype:
        return self.array.dtype

    def with_copies(self, sources: Array, targets: Array) -> "KVPages":
        """The pages with `sources` copied to `targets`, in place where the array is donated. No page may be
        in both.

        Keys and values are two updates of one scatter: one update would make XLA copy the whole cache for it.
        """
        key_or_value = jnp.arange(2)[:, None]
        return KVPages(self.array.at[key_or_value, targets[None]].set(self.array[:, sources]))
