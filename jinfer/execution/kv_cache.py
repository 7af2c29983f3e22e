"""The KV cache: its shape, the bytes of a page and the copies of pages, which no other module knows.

A layer's pages are an array of their own, so that XLA updates each in place. Page 0 is the null page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.models.config import ModelConfig
from pallas_kernels.paged_attention import KVPages

KVCache = tuple[KVPages, ...]
"""The pages of each layer."""


class KVHeads(NamedTuple):
    """Keys, or values, of one position in one layer."""

    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class KVLayout:
    """The shape of a cache but for the number of its pages."""

    layers: tuple[KVHeads, ...]
    page_size: int
    dtype: jnp.dtype

    @classmethod
    def of(cls, model: ModelConfig, page_size: int, dtype: jnp.dtype) -> "KVLayout":
        """The layout of a model's cache."""
        layers = tuple(
            KVHeads(layer.attention.num_kv_heads, layer.attention.head_dim) for layer in model.layers
        )
        return cls(layers, page_size, dtype)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, in all layers."""
        return self.page_size * sum(self.position_bytes())

    def position_bytes(self) -> Iterator[int]:
        """Bytes of one position, in each layer."""
        return (2 * heads.num_kv_heads * heads.head_dim * self.dtype.itemsize for heads in self.layers)

    def shapes(self, num_pages: int) -> Iterator[tuple[int, ...]]:
        """The shape of each layer's array."""
        return ((2, num_pages, self.page_size, *heads) for heads in self.layers)

    def abstract(self, num_pages: int) -> KVCache:
        """The shapes and the dtype of a cache, as a pytree; `Placement.zeros` makes the empty cache of it."""
        shapes: Any = (jax.ShapeDtypeStruct(shape, self.dtype) for shape in self.shapes(num_pages))
        return tuple(map(KVPages, shapes))


def copy_pages(kv_cache: KVCache, copies: Int32[Array, "copies 2"]) -> KVCache:
    """The cache with copies[:, 0] copied to copies[:, 1] in every layer, in place. No page may be in both."""
    return tuple(pages.with_copies(sources=copies[:, 0], targets=copies[:, 1]) for pages in kv_cache)
