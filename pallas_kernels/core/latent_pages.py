"""The pages of a cache of latent attention, as its operations take and return them."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LatentPages:
    """The positions of one layer by page: of each its latent vector, and behind that the rotary key that all
    heads share."""

    array: Float[Array, "num_pages page_size latent_dim_plus_rope_dim"]

    page_axis: ClassVar[int] = 0
    """The axis of pages, of every array."""

    @property
    def num_pages(self) -> int:
        return self.array.shape[0]

    @property
    def page_size(self) -> int:
        """Positions of a page."""
        return self.array.shape[1]

    @property
    def cache_dim(self) -> int:
        """Elements of a position."""
        return self.array.shape[2]

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the queries that attend to these pages."""
        return self.array.dtype

    def with_copies(
        self, sources: Int32[Array, " copies"], targets: Int32[Array, " copies"]
    ) -> "LatentPages":
        """The pages with `sources` copied to `targets`, in place where the array is donated. No page may be
        in both."""
        return LatentPages(self.array.at[targets].set(self.array[sources]))

    def with_written(
        self,
        latent: Float32[Array, "tokens latent_dim_plus_rope_dim"],
        page_ids: Int32[Array, " tokens"],
        page_offsets: Int32[Array, " tokens"],
    ) -> "LatentPages":
        """The pages with each token's vectors, in plain jax.numpy. What is outside of them is dropped."""
        return LatentPages(self.array.at[page_ids, page_offsets].set(latent.astype(self.dtype)))
