"""The product and what is around it in plain jax.numpy and float32; of integers in int32, exactly."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int8Weight, QuantizedWeight, Weight
from pallas_kernels.matmul.contract import Fusion, of_layer
from pallas_kernels.quantize import quantize_rows


def matmul(
    x: Array, w: Weight, *, layer: int | Array | None, transposed: bool, fusion: Fusion, out_dtype: DTypeLike
) -> Array:
    """See `pallas_kernels.matmul.matmul`."""
    matrix = of_layer(w, layer, ndim=2)
    wide = x.astype(jnp.float32)
    if fusion.norm is not None:
        scale, epsilon = fusion.norm
        scale = scale if scale.ndim == 1 else scale[layer]
        root_mean_square = jnp.sqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + epsilon)
        wide = wide / root_mean_square * scale.astype(jnp.float32)
    if isinstance(matrix, QuantizedWeight):
        y = _quantized_product(wide, matrix)
    else:
        y = _float_product("bi,oi->bo" if transposed else "bi,io->bo", wide, matrix)
    if fusion.bias is not None:
        bias = fusion.bias if fusion.bias.ndim == 1 else fusion.bias[layer]
        y = y + bias.astype(jnp.float32)
    if fusion.gated:
        gate, other = jnp.split(y, 2, axis=-1)
        y = (
            jax.nn.silu(gate) if fusion.activation == "silu" else jax.nn.gelu(gate, approximate=True)
        ) * other
    if fusion.residual is not None:
        y = fusion.residual.astype(jnp.float32) + y
    return y.astype(out_dtype)


def _float_product(formula: str, wide: Array, matrix: Array) -> Array:
    return jnp.einsum(formula, wide, matrix.astype(jnp.float32), precision=Precision.HIGHEST)


def _quantized_product(wide: Array, w: QuantizedWeight) -> Array:
    """x @ w, of activations as w says."""
    if w.activations == "float":
        return _float_product("bi,io->bo", wide, w.dequantized(jnp.float32))
    return EIGHT_BIT_PRODUCTS[type(w)](wide, w)


def _of_int8(wide: Array, w: Int8Weight) -> Array:
    rows = quantize_rows(wide, jnp.int8, scale=w.input_scale, implementation="reference")
    sums = jnp.einsum("bi,oi->bo", rows.values, w.values, preferred_element_type=jnp.int32)
    return sums.astype(jnp.float32) * rows.scales.T * w.scales.astype(jnp.float32)


def _of_fp8(wide: Array, w: Fp8Weight) -> Array:
    rows = quantize_rows(wide, jnp.float8_e4m3fn, scale=w.input_scale, implementation="reference")
    sums = _float_product("bi,oi->bo", rows.values.astype(jnp.float32), w.values)
    return sums * rows.scales.T * w.scales


def _of_block_fp8(wide: Array, w: BlockFp8Weight) -> Array:
    rows = quantize_rows(wide, jnp.float8_e4m3fn, group_size=128, implementation="reference")
    scales = jnp.repeat(rows.scales.T, 128, axis=1)[:, : w.num_in]
    return _float_product("bi,io->bo", rows.values.astype(jnp.float32) * scales, w.dequantized(jnp.float32))


EIGHT_BIT_PRODUCTS: Mapping[type, Callable[..., Array]] = {
    Int8Weight: _of_int8,
    Fp8Weight: _of_fp8,
    BlockFp8Weight: _of_block_fp8,
}
