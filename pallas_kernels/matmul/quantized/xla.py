"""Products with quantized weights by XLA.

Where activations stay floats it writes the weights as floats, with their inputs side by side as cuBLAS wants
them, and multiplies these. Integers it multiplies as they are. A row's own scale comes last: the rest is
fused into the product's end where the scales of weights are an argument of the program.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.precision import full_precision
from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int4Weight, Int8Weight, QuantizedWeight
from pallas_kernels.core.weights.fp8 import BLOCK_SIZE
from pallas_kernels.quantize import quantize_rows
from pallas_kernels.rms_norm import rms_norm

Norm = tuple[Array, float] | None


def quantized_product(x: Array, w: QuantizedWeight, norm: Norm, out_dtype: DTypeLike) -> Array:
    """norm(x) @ w, of activations as w says."""
    if w.activations != "float":
        return EIGHT_BIT_PRODUCTS[type(w)](x, w, norm).astype(out_dtype)
    if norm is not None:
        x = rms_norm(x, norm[0], epsilon=norm[1], implementation="xla")
    if isinstance(w, Int4Weight | Int8Weight) and w.permutation is not None:
        x, w = x[:, w.permutation], replace(w, permutation=None)  # x is smaller than w
    return _dequantized(x, w, out_dtype)


def _dequantized(x: Array, w: QuantizedWeight, out_dtype: DTypeLike) -> Array:
    return jnp.einsum(
        "ri,io->ro",
        x,
        w.dequantized(x.dtype),
        precision=full_precision(x.dtype),
        preferred_element_type=out_dtype,
    )


def _of_int8(x: Array, w: Int8Weight, norm: Norm) -> Array:
    rows = quantize_rows(x, jnp.int8, scale=w.input_scale, norm=norm, implementation="xla")
    sums = jnp.einsum("ri,oi->ro", rows.values, w.values, preferred_element_type=jnp.int32)
    return sums.astype(jnp.float32) * w.scales.astype(jnp.float32) * rows.scales.T


def _of_fp8(x: Array, w: Fp8Weight, norm: Norm) -> Array:
    rows = quantize_rows(x, jnp.float8_e4m3fn, scale=w.input_scale, norm=norm, implementation="xla")
    return _sums(rows.values, w.values) * w.scales * rows.scales.T


def _of_block_fp8(x: Array, w: BlockFp8Weight, norm: Norm) -> Array:
    """Both sides as they are stored for, in x's dtype."""
    rows = quantize_rows(x, jnp.float8_e4m3fn, group_size=BLOCK_SIZE, norm=norm, implementation="xla")
    scales = jnp.repeat(rows.scales.T, BLOCK_SIZE, axis=1)[:, : w.num_in]
    return _dequantized((rows.values.astype(jnp.float32) * scales).astype(x.dtype), w, jnp.float32)


def _sums(x: Array, values: Array) -> Array:
    return jnp.einsum(
        "ri,oi->ro", x, values, precision=full_precision(x.dtype), preferred_element_type=jnp.float32
    )


EIGHT_BIT_PRODUCTS: Mapping[type, Callable[..., Array]] = {
    Int8Weight: _of_int8,
    Fp8Weight: _of_fp8,
    BlockFp8Weight: _of_block_fp8,
}
