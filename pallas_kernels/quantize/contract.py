"""The arguments and the result of quantizing rows."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from pallas_kernels.core.selection import UnsupportedError

RANGES = {jnp.dtype(jnp.int8): (-128, 127), jnp.dtype(jnp.float8_e4m3fn): (-448, 448)}
SMALLEST_MAGNITUDE = 2.0**-100  # that a scale is made for: of zeros alone, values are zeros and not NaN


class QuantizedRows(NamedTuple):
    """x[r, f] is about values[r, f] * scales[f // group_size, r]."""

    values: Array
    scales: Float32[Array, "groups rows"]


class RowOperands(NamedTuple):
    """The arrays of a call: rows, the scale that all share, and the norm's scale. Those that it does not have
    are None."""

    x: Array
    scale: Array | None
    norm_scale: Array | None


@dataclass(frozen=True)
class Quantization:
    """The dtype and the groups of rows. `epsilon` is None without a norm."""

    dtype: jnp.dtype
    group_size: int
    epsilon: float | None
    held_in: jnp.dtype

    @property
    def least(self) -> int:
        return RANGES[self.dtype][0]

    @property
    def largest(self) -> int:
        return RANGES[self.dtype][1]

    def num_groups(self, features: int) -> int:
        return -(-features // self.group_size)


def check_arguments(operands: RowOperands, layer: int | Array | None, how: Quantization) -> None:
    """Raises ValueError for what contradicts each other, and UnsupportedError for a dtype that is not
    served."""
    x, scale, norm_scale = operands
    if how.dtype not in RANGES:
        raise UnsupportedError(f"{how.dtype}: rows are quantized to int8 or float8_e4m3fn")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x has shape {x.shape}; pass [rows, features], of which there are some")
    if how.group_size < 1:
        raise ValueError(f"group_size={how.group_size}: a group has at least one feature; None for all")
    if scale is not None and (scale.size != 1 or how.num_groups(x.shape[1]) != 1):
        raise ValueError(
            f"scale has shape {scale.shape} with groups of {how.group_size}: it is one number, for whole rows"
        )
    if norm_scale is None:
        return
    if norm_scale.shape[-1:] != x.shape[1:] or norm_scale.ndim != (1 if layer is None else 2):
        raise ValueError(
            f"the norm's scale has shape {norm_scale.shape} with layer={layer}; it must be ({x.shape[1]},), "
            "or a stack of such with a layer"
        )
    if isinstance(layer, int | np.integer) and not 0 <= layer < norm_scale.shape[0]:
        raise ValueError(f"layer={layer} is outside of a stack of {norm_scale.shape[0]} layers")
