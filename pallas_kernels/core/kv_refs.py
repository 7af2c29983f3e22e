"""The pages of a KV cache as kernels on Triton read and write them: a class for each type in `kv_pages`, all
with one interface. They are pytrees, of arrays for `triton_call` and of references in its kernel.

A vector in 8 bits is loaded without its scale. Scales of keys multiply the columns of scores after their
product, and scales of values the weights before theirs: a multiplication for each score, and none for each
element. Values are converted in registers, exactly, to the float16 that tensor cores multiply: to bfloat16 it
takes twice the instructions of int8, and of float8_e4m3fn a slow one for each element instead of one for two.
So are the queries, which must be below 65,504; one above is an infinity, and is seen. Queries of float32 are
multiplied in float32. Accumulation is in float32.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.heads import VALUES
from pallas_kernels.core.kv_pages import (
    QUANTIZED_MAX,
    QUANTIZED_MIN,
    SMALLEST_SCALED,
    AnyKVPages,
    KVPages,
    QuantizedKVPages,
)
from pallas_kernels.core.online_softmax import KernelShape, Vectors
from pallas_kernels.core.triton_call import load_rows

MAGNITUDE = 0x7FFFFFFF  # the bits of a float32 without its sign, which are ordered as its magnitude is


class Encoded(NamedTuple):
    """Vectors as a cache stores them, in parts [..., columns], with their scales [...]; None for none."""

    parts: list[Array]
    scale: Array | None


class PlainPages(NamedTuple):
    """`KVPages`."""

    array: Any

    @property
    def num_pages(self) -> int:
        return self.array.shape[1]

    def load(self, kind: int, page: Array, offset: Array, kv_head, *, shape: KernelShape) -> Vectors:
        """The keys or values of positions [n]; `kv_head` is a scalar or, per position, [n]."""
        sizes = {"size": shape.head_dim, "padded_size": shape.padded_dim}
        return Vectors(load_rows(self.array, kind, page, offset, kv_head, **sizes), None)

    def weight_unit(self, shape: KernelShape) -> float:
        """The unit that a weighted sum of loaded values counts in."""
        return 1.0

    def encode(self, parts: Sequence[Array], *, fixed_scale: Array | None = None, interpret: bool) -> Encoded:
        """Vectors of which these are all columns, as `store` takes them. They have no scale."""
        assert fixed_scale is None, "check_kv_scales"
        return Encoded([part.astype(self.array.dtype) for part in parts], None)

    def store(self, kind: int, page, offset, head, column, part: Array, *, mask: Array) -> None:
        """A part of encoded vectors. All indices have, or broadcast to, its shape."""
        plt.store(self.array.at[kind, page, offset, head, column], part, mask=mask)

    def store_scale(self, kind: int, page, offset, head, encoded: Encoded, *, mask: Array) -> None:
        """The scales of encoded vectors, of which these pages have none."""


class QuantizedPages(NamedTuple):
    """`QuantizedKVPages`."""

    values: Any
    scales: Any

    @property
    def num_pages(self) -> int:
        return self.values.shape[1]

    def load(self, kind: int, page: Array, offset: Array, kv_head, *, shape: KernelShape) -> Vectors:
        """The keys or values of positions [n]; `kv_head` is a scalar or, per position, [n]."""
        sizes = {"size": shape.head_dim, "padded_size": shape.padded_dim}
        values = load_rows(self.values, kind, page, offset, kv_head, **sizes)
        scale = self.scales[kind, page, kv_head, offset]
        if kind == VALUES:
            values = values if shape.interpret else _converted_where_loaded(values)
            scale = scale if self.weight_unit(shape) == 1 else scale * (1 / self.weight_unit(shape))
        return Vectors(_converted(values, shape.dot_dtype, interpret=shape.interpret), scale)

    def weight_unit(self, shape: KernelShape) -> float:
        """The unit that a weighted sum of loaded values counts in.

        A weight times a scale is below float16's normal numbers where vectors are small: in units of a power
        of two near 1 / the largest value, it is a weight times the vector's largest element.
        """
        largest = QUANTIZED_MAX[jnp.dtype(self.values.dtype)]
        return 2.0 ** -(int(largest).bit_length() - 1) if shape.dot_dtype == jnp.float16 else 1.0

    def encode(self, parts: Sequence[Array], *, fixed_scale: Array | None = None, interpret: bool) -> Encoded:
        """Vectors of which these are all columns, as `store` takes them: quantized by their largest element,
        or by a scale that is broadcast to them."""
        dtype = jnp.dtype(self.values.dtype)
        amax = _largest_magnitude(parts)
        if fixed_scale is None:
            is_zero = amax < SMALLEST_SCALED
            inverse = jnp.where(is_zero, 0.0, QUANTIZED_MAX[dtype] / jnp.where(is_zero, 1.0, amax))
            scaled = [part.astype(jnp.float32) * inverse[..., None] for part in parts]
            scale = jnp.where(is_zero, 0.0, amax / QUANTIZED_MAX[dtype])
        else:
            scaled = [_saturated(part.astype(jnp.float32) / fixed_scale[..., None], dtype) for part in parts]
            scale = jnp.where(amax < jnp.inf, fixed_scale, jnp.nan)
        return Encoded([_rounded(x, dtype, interpret=interpret) for x in scaled], scale)

    def store(self, kind: int, page, offset, head, column, part: Array, *, mask: Array) -> None:
        """A part of encoded vectors. All indices have, or broadcast to, its shape."""
        plt.store(self.values.at[kind, page, offset, head, column], part, mask=mask)

    def store_scale(self, kind: int, page, offset, head, encoded: Encoded, *, mask: Array) -> None:
        """The scales of encoded vectors. All indices have, or broadcast to, their shape."""
        assert encoded.scale is not None
        plt.store(self.scales.at[kind, page, head, offset], encoded.scale, mask=mask)


StoredPages: TypeAlias = PlainPages | QuantizedPages

STORED: Mapping[type, Callable[..., StoredPages]] = {
    KVPages: lambda pages: PlainPages(pages.array),
    QuantizedKVPages: lambda pages: QuantizedPages(pages.values, pages.scales),
}


def stored(kv_pages: AnyKVPages) -> StoredPages:
    """The pages as an operand of a kernel. This is the one place that asks for their type."""
    return STORED[type(kv_pages)](kv_pages)


def shapes_of(pages: StoredPages) -> StoredPages:
    """The pages as the result of a kernel that writes them."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), pages)


def as_pages(written: StoredPages, like: AnyKVPages) -> AnyKVPages:
    """The pages that a kernel wrote, as the type that they were."""
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(written))


def dot_dtype(kv_pages: AnyKVPages) -> jnp.dtype:
    """The dtype of the products of queries with these pages: that of queries, but float16 for 8 bits and
    queries of 16."""
    if kv_pages.quantized is not None and kv_pages.dtype.itemsize == 2:
        return jnp.dtype(jnp.float16)
    return jnp.dtype(kv_pages.dtype)


def _largest_magnitude(parts: Sequence[Array]) -> Array:
    """[...] of the columns of all parts; NaN where there is one, which Triton's maximum of numbers drops."""
    bits = [jax.lax.bitcast_convert_type(part.astype(jnp.float32), jnp.int32) & MAGNITUDE for part in parts]
    first, *others = (part.max(-1) for part in bits)
    for other in others:
        first = jnp.maximum(first, other)
    return jax.lax.bitcast_convert_type(first, jnp.float32)


def _saturated(x: Array, dtype: jnp.dtype) -> Array:
    return jnp.minimum(jnp.maximum(x, QUANTIZED_MIN[dtype]), QUANTIZED_MAX[dtype])


def _rounded(x: Array, dtype: jnp.dtype, *, interpret: bool) -> Array:
    """float32 to 8 bits: integers to the nearest, and halves to even. Pallas on Triton has no such rounding,
    and the GPU has an instruction."""
    if dtype != jnp.int8:
        return x.astype(dtype)
    if interpret:
        return jnp.round(x).astype(dtype)
    (nearest,) = plt.elementwise_inline_asm(
        "cvt.rni.s32.f32 $0, $1;",
        args=[x],
        constraints="=r,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.int32)],
    )
    return nearest.astype(dtype)


def _converted_where_loaded(x: Array) -> Array:
    """The values [n, dim] as they are, and converted in the layout of their load.

    A product of weights and values wants pairs of positions in a register. Triton else loads them so before
    it converts them, byte for byte, which is half as many instructions again as decode takes in all. It does
    not where a value depends on the number of its column; here by nothing, which LLVM sees and Triton does
    not.
    """
    nothing = jnp.minimum(jnp.arange(x.shape[-1]), 0).astype(jnp.int8)
    bits = jax.lax.bitcast_convert_type(x, jnp.int8) ^ jnp.broadcast_to(nothing[None, :], x.shape)
    return jax.lax.bitcast_convert_type(bits, x.dtype)


# Four bytes x to 1024 + 128 + x, whose bits are those of x after 0x64, its sign turned; and 1152 less.
INT8_TO_FLOAT16 = """{
    .reg .b32 biased, high, bias;
    mov.b32 high, 0x64646464;
    mov.b32 bias, 0x64806480;
    xor.b32 biased, $2, 0x80808080;
    prmt.b32 $0, biased, high, 0x4140;
    prmt.b32 $1, biased, high, 0x4342;
    sub.rn.f16x2 $0, $0, bias;
    sub.rn.f16x2 $1, $1, bias;
}"""


def _converted(x: Array, dtype: jnp.dtype, *, interpret: bool) -> Array:
    """8 bits to the dtype of the products. Triton's own conversion of int8 to float16 is a slow instruction
    for each element; this one takes five for four."""
    if interpret or x.dtype != jnp.int8 or dtype != jnp.float16:
        return x.astype(dtype)
    (converted,) = plt.elementwise_inline_asm(
        INT8_TO_FLOAT16,
        args=[x],
        constraints="=r,=r,r",
        pack=4,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, dtype)],
    )
    return converted
