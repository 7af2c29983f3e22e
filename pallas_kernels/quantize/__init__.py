"""Rows in eight bits, with a scale for each row or for each group of it: the activations of W8A8 products."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32

from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.quantize import reference, triton
from pallas_kernels.quantize.contract import Quantization, QuantizedRows, RowOperands, check_arguments

__all__ = ["QuantizedRows", "quantize_rows"]


def quantize_rows(
    x: Float[Array, "rows features"],
    dtype: DTypeLike = jnp.int8,
    *,
    group_size: int | None = None,
    scale: Float32[Array, ""] | None = None,
    norm: tuple[Float[Array, " features"] | Float[Array, "layers features"], float] | None = None,
    layer: int | Int32[Array, ""] | None = None,
    held_in: DTypeLike | None = None,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> QuantizedRows:
    """The nearest values in int8 or float8_e4m3fn to norm(x) / scales, and scales [groups, rows] in float32.

    A scale is the largest magnitude of a row, or of each `group_size` features of a row, / 127 in int8 and
    448 in float8_e4m3fn; of zeros alone it is next to nothing. Or it is `scale` for all, and what lies beyond
    the dtype's range becomes its nearest end. `norm`, the scale and epsilon of an RMSNorm, puts
    x / sqrt(mean(x ** 2) + epsilon) * scale instead of x, of which nothing is rounded before it is quantized;
    a stack of scales is indexed by `layer`. Values come in `held_in` where it is given, a wider dtype that
    holds them all, such as float16 for those of float8_e4m3fn.

    All is computed in float32, from x * (127 / largest magnitude), and rounded to even.

    Raises ValueError where arguments contradict each other, and UnsupportedError for rows that
    `implementation` cannot hold.
    """
    norm_scale, epsilon = norm or (None, None)
    how = Quantization(
        dtype=jnp.dtype(dtype),
        group_size=x.shape[-1] if group_size is None else group_size,
        epsilon=epsilon,
        held_in=jnp.dtype(dtype if held_in is None else held_in),
    )
    operands = RowOperands(x, scale, norm_scale)
    check_arguments(operands, layer, how)
    if select(implementation) == "reference":
        return reference.quantize_rows(operands, layer, how)
    return triton.quantize_rows(operands, layer, how, interpret=should_interpret(interpret))
