"""Inputs: random numbers made on the device, or their shapes alone. What a kernel computes with decides how
much power it draws, and so how fast it runs: zeros are fast.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pallas_kernels.core.kv_pages import KVPages, QuantizedKVPages, quantize


class Data(Protocol):
    """The source of a case's inputs."""

    def normal(self, shape: tuple[int, ...], dtype: DTypeLike = jnp.bfloat16, scale: float = 1.0) -> Any:
        """Normally distributed numbers of the given standard deviation."""

    def quantized(self, pages: KVPages, dtype: str) -> Any:
        """The pages in 8 bits, with their scales."""

    def integers(self, values: np.ndarray) -> Any:
        """The given values as int32."""

    def page_table(self, rows: int, pages_each: int) -> Any:
        """Returns a page table [rows, pages_each] over the pages 1 to rows * pages_each, in random order."""


class RandomData:
    """Makes arrays. The same seed gives the same arrays in the same order of calls."""

    def __init__(self, seed: int) -> None:
        self._host = np.random.default_rng(seed)

    def normal(
        self, shape: tuple[int, ...], dtype: DTypeLike = jnp.bfloat16, scale: float = 1.0
    ) -> jax.Array:
        seed = self._host.integers(1 << 32, size=4, dtype=np.uint32)
        return generator(shape, jnp.dtype(dtype))(seed, np.float32(scale))

    def quantized(self, pages: KVPages, dtype: str) -> QuantizedKVPages:
        return quantized(pages, dtype)

    def integers(self, values: np.ndarray) -> jax.Array:
        return jnp.asarray(values, jnp.int32)

    def page_table(self, rows: int, pages_each: int) -> jax.Array:
        return self.integers(self._host.permutation(rows * pages_each).reshape(rows, pages_each) + 1)


class ShapesOnly:
    """Makes the shapes of RandomData's arrays, without memory: enough to compile with."""

    def normal(self, shape: tuple[int, ...], dtype: DTypeLike = jnp.bfloat16, scale: float = 1.0) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    def quantized(self, pages: KVPages, dtype: str) -> Any:
        return jax.eval_shape(functools.partial(quantized, dtype=dtype), pages)

    def integers(self, values: np.ndarray) -> Any:
        return jax.ShapeDtypeStruct(values.shape, jnp.int32)

    def page_table(self, rows: int, pages_each: int) -> Any:
        return jax.ShapeDtypeStruct((rows, pages_each), jnp.int32)


@functools.partial(jax.jit, static_argnames="dtype")
def quantized(pages: KVPages, dtype: str) -> QuantizedKVPages:
    """The pages in 8 bits, with a scale for each position and head."""
    values, scales = quantize(pages.array.astype(jnp.float32), jnp.dtype(dtype))
    return QuantizedKVPages(values, jnp.swapaxes(scales, -1, -2), pages.dtype)


@functools.cache
def generator(shape: tuple[int, ...], dtype: jnp.dtype) -> Callable[[np.ndarray, np.float32], jax.Array]:
    """Returns the generator of a shape, compiled once: ahead, in parallel, by `compile_generators`, or at its
    first use."""

    def generate(seed, scale):
        key = jax.random.wrap_key_data(seed, impl="rbg")  # Philox: gigabytes in milliseconds
        return (jax.random.normal(key, shape, jnp.float32) * scale).astype(dtype)

    seed, scale = jax.ShapeDtypeStruct((4,), jnp.uint32), jax.ShapeDtypeStruct((), jnp.float32)
    return jax.jit(generate).lower(seed, scale).compile()


def compile_generators(shapes: Any) -> None:
    """Compiles the generators of all floating-point arrays of a pytree of shapes."""
    for shape, dtype in {(x.shape, x.dtype) for x in jax.tree.leaves(shapes)}:
        if jnp.issubdtype(dtype, jnp.floating):
            generator(shape, dtype)
