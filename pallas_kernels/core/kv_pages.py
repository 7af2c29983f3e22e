"""The pages of a KV cache, as the operations of attention take and return them: a type for each way in which
a cache stores keys and values. The operations dispatch on it, and nothing else asks for it.
"""

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float8e4m3fn, Float32, Int8, Int32

QUANTIZED_MAX = {jnp.dtype(jnp.int8): 127.0, jnp.dtype(jnp.float8_e4m3fn): 448.0}
"""The dtypes of quantized values, and the largest that each has."""

QUANTIZED_MIN = {jnp.dtype(jnp.int8): -128.0, jnp.dtype(jnp.float8_e4m3fn): -448.0}
"""The least value of each, at which a fixed scale saturates."""

SMALLEST_SCALED = 1e-36  # the largest element of a vector below which it counts as zeros: 127 / it is finite


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class KVPages:
    """Keys and values of one layer in one array: keys in array[0], values in array[1], both by page and
    position."""

    array: Float[Array, "2 num_pages page_size num_kv_heads head_dim"]

    page_axis: ClassVar[int] = 1
    """The axis of pages, of every array."""

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
        """The dtype of the queries that attend to these pages."""
        return self.array.dtype

    @property
    def values_dtype(self) -> jnp.dtype:
        """The dtype of what is read for each element of a key or value."""
        return self.array.dtype

    @property
    def quantized(self) -> None:
        """The name of the values' dtype, where they have scales: a fact for the choice of blocks."""
        return None

    def with_copies(self, sources: Array, targets: Array) -> "KVPages":
        """The pages with `sources` copied to `targets`, in place where the array is donated. No page may be
        in both."""
        return KVPages(_with_copies(self.array, sources, targets))

    def with_written(
        self,
        kv: Float32[Array, "2 tokens num_kv_heads head_dim"],
        page_ids: Int32[Array, " tokens"],
        page_offsets: Int32[Array, " tokens"],
        kv_scales: Float32[Array, "2 num_kv_heads"] | None = None,
    ) -> "KVPages":
        """The pages with each token's key and value, in plain jax.numpy. What is outside of them is dropped.
        They have no scales.

        Keys and values are two updates of one scatter: one update would make XLA turn the scatter of a single
        token into slice updates, and copy the whole cache for them.
        """
        assert kv_scales is None, "check_kv_scales"
        place = jnp.arange(2)[:, None], page_ids[None], page_offsets[None]
        return KVPages(self.array.at[place].set(kv.astype(self.dtype)))

    def gathered(self, page_ids: Array) -> Float32[Array, "2 *pages page_size num_kv_heads head_dim"]:
        """Keys and values of these pages in float32, in plain jax.numpy."""
        return self.array[:, page_ids].astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class QuantizedKVPages:
    """Keys and values of one layer in 8 bits, with a scale for each position and KV head: a vector is its
    values times its scale.

    The scale is that of the vector's largest element, amax / 127 of int8 and amax / 448 of float8_e4m3fn; one
    of zeros has scale 0. Or it is fixed, one for all keys of a head and one for its values, where who writes
    them has `kv_scales` (docs/decisions/0037): larger elements are then the largest that there is. A NaN or
    an infinity makes the scale one, so that it is seen by whoever attends to the vector. Positions of a head
    lie side by side in `scales`, since a kernel reads a run of them. `dtype` is that of the queries that
    attend to these pages.

    Of 128 elements a vector takes 132 bytes, and in bfloat16 256: 1.94 times as many positions fit.
    """

    values: (
        Int8[Array, "2 num_pages page_size num_kv_heads head_dim"]
        | Float8e4m3fn[Array, "2 num_pages page_size num_kv_heads head_dim"]
    )
    scales: Float32[Array, "2 num_pages num_kv_heads page_size"]
    dtype: jnp.dtype = field(metadata={"static": True})

    page_axis: ClassVar[int] = 1
    """The axis of pages, of every array."""

    @property
    def num_pages(self) -> int:
        return self.values.shape[1]

    @property
    def page_size(self) -> int:
        """Positions of a page."""
        return self.values.shape[2]

    @property
    def num_kv_heads(self) -> int:
        return self.values.shape[3]

    @property
    def head_dim(self) -> int:
        return self.values.shape[4]

    @property
    def values_dtype(self) -> jnp.dtype:
        """The dtype of what is read for each element of a key or value."""
        return self.values.dtype

    @property
    def quantized(self) -> str:
        """The name of the values' dtype, where they have scales: a fact for the choice of blocks."""
        return self.values.dtype.name

    def with_copies(self, sources: Array, targets: Array) -> "QuantizedKVPages":
        """The pages with `sources` copied to `targets`, in place where the arrays are donated. No page may be
        in both."""
        values, scales = (_with_copies(array, sources, targets) for array in (self.values, self.scales))
        return QuantizedKVPages(values, scales, self.dtype)

    def with_written(
        self,
        kv: Float32[Array, "2 tokens num_kv_heads head_dim"],
        page_ids: Int32[Array, " tokens"],
        page_offsets: Int32[Array, " tokens"],
        kv_scales: Float32[Array, "2 num_kv_heads"] | None = None,
    ) -> "QuantizedKVPages":
        """The pages with each token's key and value, quantized in plain jax.numpy, by fixed scales where they
        are given. What is outside of the pages is dropped. Two updates of a scatter, as for `KVPages`."""
        if kv_scales is None:
            values, scales = quantize(kv, self.values.dtype)
        else:
            values, scales = quantize_by(kv, kv_scales[:, None], self.values.dtype)
        key_or_value = jnp.arange(2)[:, None, None]
        head = jnp.arange(self.num_kv_heads)[None, None]
        pages, offsets = page_ids[None, :, None], page_offsets[None, :, None]
        return QuantizedKVPages(
            self.values.at[key_or_value[..., 0], page_ids[None], page_offsets[None]].set(values),
            self.scales.at[key_or_value, pages, head, offsets].set(scales),
            self.dtype,
        )

    def gathered(self, page_ids: Array) -> Float32[Array, "2 *pages page_size num_kv_heads head_dim"]:
        """Keys and values of these pages in float32, in plain jax.numpy."""
        scales = jnp.swapaxes(self.scales[:, page_ids], -1, -2)
        return self.values[:, page_ids].astype(jnp.float32) * scales[..., None]


AnyKVPages: TypeAlias = KVPages | QuantizedKVPages
"""A cache as the operations take it."""


def quantize(x: Float32[Array, "*vectors head_dim"], dtype: jnp.dtype) -> tuple[Array, Array]:
    """Vectors as values of `dtype` [*vectors, head_dim] and float32 scales [*vectors], in plain jax.numpy.

    int8 is rounded to the nearest, and halves to even; float8_e4m3fn as its conversion does.
    """
    largest = QUANTIZED_MAX[jnp.dtype(dtype)]
    amax = jnp.max(jnp.abs(x), axis=-1)
    is_zero = amax < SMALLEST_SCALED
    scaled = x * jnp.where(is_zero, 0, largest / jnp.where(is_zero, 1, amax))[..., None]
    if dtype == jnp.int8:
        scaled = jnp.round(scaled)
    return scaled.astype(dtype), jnp.where(is_zero, 0, amax / largest)


def quantize_by(
    x: Float32[Array, "*vectors head_dim"], scales: Float32[Array, "#*vectors"], dtype: jnp.dtype
) -> tuple[Array, Array]:
    """Vectors as values of `dtype` [*vectors, head_dim] by fixed scales, and these [*vectors], in plain
    jax.numpy: x / scale, saturated, and rounded as in `quantize`. The scale of a vector that is not finite is
    NaN."""
    least, largest = QUANTIZED_MIN[jnp.dtype(dtype)], QUANTIZED_MAX[jnp.dtype(dtype)]
    scaled = jnp.clip(x / scales[..., None], least, largest)
    if dtype == jnp.int8:
        scaled = jnp.round(scaled)
    return scaled.astype(dtype), jnp.where(jnp.isfinite(x).all(-1), scales, jnp.nan)


def _with_copies(array: Array, sources: Array, targets: Array) -> Array:
    """The array [2, num_pages, ...] with these pages copied.

    Keys and values are two updates of one scatter: one update would make XLA copy the whole cache for it.
    """
    return array.at[jnp.arange(2)[:, None], targets[None]].set(array[:, sources])
