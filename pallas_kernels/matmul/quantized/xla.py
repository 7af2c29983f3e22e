"""Products with quantized weights by XLA.

Scales of outputs are applied to sums and not to weights, which XLA then converts where it reads them, and to
float32. Scales of groups it writes out as a matrix of floats first. A row's own scale comes last: the rest is
fused into the product's end where the scales of weights are an argument of the program.
"""

from collections.abc import Callable, Mapping

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
    return FLOAT_PRODUCTS[type(w)](x, w).astype(out_dtype)


def _by_output(x: Array, w: Int8Weight | Fp8Weight) -> Array:
    """Sums of x times the values, scaled: the values are exact in any float."""
    if isinstance(w, Int8Weight) and (w.zeros is not None or w.group_size < w.num_in):
        return _dequantized(x, w)
    scales = w.scales.reshape(-1).astype(jnp.float32)
    return _sums(x, w.values.astype(x.dtype)) * scales


def _dequantized(x: Array, w: QuantizedWeight) -> Array:
    return jnp.einsum(
        "ri,io->ro",
        x,
        w.dequantized(x.dtype),
        precision=full_precision(x.dtype),
        preferred_element_type=jnp.float32,
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
    return _dequantized((rows.values.astype(jnp.float32) * scales).astype(x.dtype), w)


def _sums(x: Array, values: Array) -> Array:
    return jnp.einsum(
        "ri,oi->ro", x, values, precision=full_precision(x.dtype), preferred_element_type=jnp.float32
    )


FLOAT_PRODUCTS: Mapping[type, Callable[..., Array]] = {
    Int8Weight: _by_output,
    Fp8Weight: _by_output,
    BlockFp8Weight: _dequantized,
    Int4Weight: _dequantized,
}
EIGHT_BIT_PRODUCTS: Mapping[type, Callable[..., Array]] = {
    Int8Weight: _of_int8,
    Fp8Weight: _of_fp8,
    BlockFp8Weight: _of_block_fp8,
}
