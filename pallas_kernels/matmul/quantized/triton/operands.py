"""The arrays that the kernel reads: activations as weights want them, and inputs in the weights' order."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_kernels.core.stacked import layer_index_operand
from pallas_kernels.core.weights import Int4Weight, Int8Weight, QuantizedWeight
from pallas_kernels.core.weights.int4 import ZEROS_OF_A_WORD
from pallas_kernels.core.widening.kinds import BFLOAT16, Kind
from pallas_kernels.matmul.contract import Fusion, of_layer
from pallas_kernels.quantize import quantize_rows

# The zero after them keeps XLA from computing them, in a kernel of their own: 0, 4, 8, ... is an iota to it.
SHIFTS = np.asarray([*range(0, 4 * ZEROS_OF_A_WORD, 4), 0], np.uint32)


def operands_of(
    x: Array, w: QuantizedWeight, kind: Kind, layer: int | Array | None, fusion: Fusion, interpret: bool
) -> dict[str, Array]:
    """Arrays by name: x, w and scales, and what there is of the rest."""
    norm = fusion.norm
    found: dict[str, Any] = {"residual": fusion.residual, "bias": fusion.bias}
    if isinstance(w, Int4Weight | Int8Weight):
        x, norm = permuted(x, w, layer, norm)
    if kind.x_dtype == BFLOAT16:
        found |= {"x": x, "norm_scale": None if norm is None else norm[0]}
    else:
        found |= _quantized(x, w, kind, layer, norm, interpret)
    scales = w.scales
    if kind.group_size is None:
        scales = scales.reshape(*w.shape[:-2], w.num_out)  # without the axis of the only group
    found |= {
        "w": w.elements,
        "scales": scales,
        **_zeros(w),
        "layer": None if layer is None else layer_index_operand(layer),
    }
    return {name: array for name, array in found.items() if array is not None}


def _zeros(w: QuantizedWeight) -> dict[str, Any]:
    if isinstance(w, Int4Weight) and w.packed_zeros is not None:
        return {"zeros": w.packed_zeros, "shifts": SHIFTS}
    return {"zeros": w.zeros if isinstance(w, Int8Weight) else None}


def permuted(
    x: Array, w: Int4Weight | Int8Weight, layer: int | Array | None, norm: tuple[Array, float] | None
) -> tuple[Array, tuple[Array, float] | None]:
    """x, and the norm's scale, in the order of the weights' codes."""
    if w.permutation is None:
        return x, norm
    order = of_layer(w.permutation, layer, ndim=1)
    if norm is not None:
        norm = of_layer(norm[0], layer, ndim=1)[order], norm[1]
    return x[:, order], norm


def _quantized(
    x: Array,
    w: QuantizedWeight,
    kind: Kind,
    layer: int | Array | None,
    norm: tuple[Array, float] | None,
    interpret: bool,
) -> dict[str, Array]:
    """x in eight bits, held in `kind.x_dtype`, and its scales [groups, rows]."""
    is_stack = norm is not None and norm[0].ndim == 2
    input_scale = getattr(w, "input_scale", None)
    rows = quantize_rows(
        x,
        jnp.int8 if kind.x_dtype == jnp.int8 else jnp.float8_e4m3fn,
        group_size=kind.group_size,
        scale=None if input_scale is None else of_layer(input_scale, layer, ndim=0),
        norm=norm,
        layer=layer if is_stack else None,
        held_in=kind.x_dtype,
        implementation="triton",
        interpret=interpret,
    )
    return {"x": rows.values, "row_scales": rows.scales}
