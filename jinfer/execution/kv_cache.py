"""The KV cache: its shape, the bytes of a page and the copies of pages, which no other module knows.

A layer's pages are an array of their own, so that XLA updates each in place. Page 0 is the null page.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.config import EngineLimits, KVCacheDType
from jinfer.errors import ConfigError
from jinfer.models.attention import LayerPages
from jinfer.models.config import AttentionConfig, LatentAttentionConfig, ModelConfig
from jinfer.weights.params import num_bytes
from pallas_kernels.latent_attention import LatentPages
from pallas_kernels.paged_attention import AnyKVPages, KVPages, QuantizedKVPages

KVCache = tuple[LayerPages, ...]
"""The pages of each layer with keys and values of its own."""


class KVHeads(NamedTuple):
    """Keys, or values, of one position in one layer."""

    num_kv_heads: int
    head_dim: int


class LatentVectors(NamedTuple):
    """The latent vector and the rotary key of one position in one layer, together."""

    cache_dim: int


@dataclass(frozen=True)
class KVLayout:
    """The shape of a cache but for the number of its pages. `dtype` is that of activations."""

    layers: tuple[KVHeads | LatentVectors, ...]
    page_size: int
    dtype: jnp.dtype
    kv_cache_dtype: KVCacheDType = "auto"

    @classmethod
    def of(
        cls, model: ModelConfig, page_size: int, dtype: jnp.dtype, kv_cache_dtype: KVCacheDType = "auto"
    ) -> "KVLayout":
        """The layout of a model's cache."""
        layers = tuple(_position_of(model.layers[number].attention) for number in model.caching_layers)
        return cls(layers, page_size, dtype, kv_cache_dtype)

    @classmethod
    def in_limits(cls, model: ModelConfig, limits: EngineLimits, dtype: jnp.dtype) -> "KVLayout":
        """The layout of the cache of an engine with these limits."""
        return cls.of(model, limits.page_size, dtype, limits.kv_cache_dtype)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, in all layers."""
        return sum(map(num_bytes, self.abstract(num_pages=1)))

    def position_bytes(self) -> Iterator[int]:
        """Bytes of one position, in each layer with keys and values of its own."""
        return (num_bytes(pages) // self.page_size for pages in self.abstract(num_pages=1))

    def abstract(self, num_pages: int) -> KVCache:
        """The shapes and the dtypes of a cache, as a pytree; `Placement.zeros` makes the empty cache of
        it."""
        return tuple(self._pages(position, num_pages) for position in self.layers)

    def _pages(self, position: KVHeads | LatentVectors, num_pages: int) -> LayerPages:
        if isinstance(position, LatentVectors):
            assert self.kv_cache_dtype == "auto", "check_cache_dtype"
            array: Any = jax.ShapeDtypeStruct((num_pages, self.page_size, position.cache_dim), self.dtype)
            return LatentPages(array)
        return PAGES[self.kv_cache_dtype]((2, num_pages, self.page_size, *position), self.dtype)


def _position_of(attention: AttentionConfig | LatentAttentionConfig) -> KVHeads | LatentVectors:
    if isinstance(attention, LatentAttentionConfig):
        return LatentVectors(attention.cache_dim)
    return KVHeads(attention.num_kv_heads, attention.head_dim)


def check_cache_dtype(model: ModelConfig, kv_cache_dtype: KVCacheDType) -> None:
    """Raises ConfigError for a type that some layer's cache does not have."""
    latent = [layer.attention for layer in model.layers if isinstance(layer.attention, LatentAttentionConfig)]
    if latent and kv_cache_dtype != "auto":
        raise ConfigError(
            f"kv_cache_dtype={kv_cache_dtype!r} is of keys and values, and {model.architecture} caches "
            "latent vectors, which jinfer keeps in the dtype of activations: "
            f"{latent[0].cache_dim} elements a position and layer, for all heads; leave kv_cache_dtype out"
        )


def _plain_pages(shape: tuple[int, ...], dtype: jnp.dtype) -> KVPages:
    array: Any = jax.ShapeDtypeStruct(shape, dtype)
    return KVPages(array)


def _quantized_pages(values_dtype: jnp.dtype) -> Callable[[tuple[int, ...], jnp.dtype], QuantizedKVPages]:
    def make(shape: tuple[int, ...], dtype: jnp.dtype) -> QuantizedKVPages:
        _, num_pages, page_size, num_kv_heads, _ = shape
        values: Any = jax.ShapeDtypeStruct(shape, values_dtype)
        scales: Any = jax.ShapeDtypeStruct((2, num_pages, num_kv_heads, page_size), jnp.float32)
        return QuantizedKVPages(values, scales, dtype)

    return make


PAGES: Mapping[KVCacheDType, Callable[[tuple[int, ...], jnp.dtype], AnyKVPages]] = {
    "auto": _plain_pages,
    "int8": _quantized_pages(jnp.dtype(jnp.int8)),
    "fp8_e4m3": _quantized_pages(jnp.dtype(jnp.float8_e4m3fn)),
}
"""The pages of a layer by the option, from the shape of their values and the dtype of activations."""


def copy_pages(kv_cache: KVCache, copies: Int32[Array, "copies 2"]) -> KVCache:
    """The cache with copies[:, 0] copied to copies[:, 1] in every layer, in place. No page may be in both."""
    return tuple(pages.with_copies(sources=copies[:, 0], targets=copies[:, 1]) for pages in kv_cache)
