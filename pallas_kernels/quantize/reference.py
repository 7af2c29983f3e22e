"""Rows in eight bits in plain jax.numpy, which XLA computes in two passes or more."""

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.quantize.contract import SMALLEST_MAGNITUDE, Quantization, QuantizedRows, RowOperands


def quantize_rows(operands: RowOperands, layer: int | Array | None, how: Quantization) -> QuantizedRows:
    """See `pallas_kernels.quantize.quantize_rows`."""
    wide = _normalized(operands, layer, how)
    if operands.scale is not None:
        scales = jnp.broadcast_to(operands.scale.reshape(1, 1).astype(jnp.float32), (1, wide.shape[0]))
        return QuantizedRows(_rounded(wide * (1 / operands.scale.astype(jnp.float32)), how), scales)
    rows, features = wide.shape
    num_groups = how.num_groups(features)
    padded = jnp.pad(wide, ((0, 0), (0, num_groups * how.group_size - features)))
    groups = padded.reshape(rows, num_groups, how.group_size)
    largest = jnp.maximum(jnp.abs(groups).max(-1, keepdims=True), SMALLEST_MAGNITUDE)
    values = _rounded(groups * (how.largest / largest), how).reshape(rows, -1)[:, :features]
    return QuantizedRows(values, (largest / how.largest)[..., 0].T)


def _normalized(operands: RowOperands, layer: int | Array | None, how: Quantization) -> Array:
    wide = operands.x.astype(jnp.float32)
    if how.epsilon is None or operands.norm_scale is None:
        return wide
    scale = operands.norm_scale if layer is None else operands.norm_scale[layer]
    root_mean_square = jnp.sqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + how.epsilon)
    return wide / root_mean_square * scale.astype(jnp.float32)


def _rounded(steps: Array, how: Quantization) -> Array:
    within = jnp.clip(steps, how.least, how.largest)
    return (jnp.round(within) if how.dtype == jnp.int8 else within).astype(how.dtype).astype(how.held_in)
