"""The arguments of a grouped product: what is fused to it, and what contradicts what."""

from typing import NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.gating import Activation, ClampedSwiglu, ExpertActivation
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Mxfp4Weight, QuantizedWeight, Weight
from pallas_kernels.grouped_matmul.groups import RowGroups

QUANTIZED_TYPES = (Fp8Weight, BlockFp8Weight, Mxfp4Weight)


class GroupedFusion(NamedTuple):
    """The bias of each group, the gate, and the weight of each row, in that order."""

    bias: Array | None = None
    gate: ExpertActivation | None = None
    row_weights: Array | None = None


def check_arguments(
    x: Array, w: Weight, groups: RowGroups, layer: int | Array, fusion: GroupedFusion
) -> None:
    """Raises ValueError for what contradicts each other, and UnsupportedError for types that nothing
    serves."""
    if x.ndim != 2 or w.ndim != 4 or 0 in (*x.shape, *w.shape) or x.shape[1] != w.shape[2]:
        raise ValueError(
            f"x has shape {x.shape} and w {w.shape}; pass [rows, in] and [layers, groups, in, out]"
        )
    if groups.num_rows % x.shape[0]:
        raise ValueError(
            f"x has {x.shape[0]} rows for {groups.num_rows} rows of groups; each must stand for as many"
        )
    if isinstance(layer, int) and not 0 <= layer < w.shape[0]:
        raise ValueError(f"layer={layer} is outside of a stack of {w.shape[0]} layers, which count from 0")
    _check_fusion(w, groups, fusion)
    check_types(x, {"w": w})


def _check_fusion(w: Weight, groups: RowGroups, fusion: GroupedFusion) -> None:
    num_layers, num_groups, _, num_columns = w.shape
    if fusion.gate is not None:
        check_activation(fusion.gate)
        if num_columns % 2:
            raise ValueError(f"w has {num_columns} outputs; gate and others are equal halves of them")
    bias, row_weights = fusion.bias, fusion.row_weights
    if bias is not None and bias.shape != (num_layers, num_groups, num_columns):
        raise ValueError(
            f"bias has shape {bias.shape}; for weights of {w.shape} it must be "
            f"{(num_layers, num_groups, num_columns)}"
        )
    if row_weights is not None and row_weights.shape != (groups.num_rows,):
        raise ValueError(f"row_weights have shape {row_weights.shape}; they must be ({groups.num_rows},)")


def check_activation(activation: ExpertActivation) -> None:
    """Raises ValueError for an unknown one."""
    if not isinstance(activation, ClampedSwiglu) and activation not in get_args(Activation):
        raise ValueError(
            f"activation={activation!r} is none of a gate's: give one of {get_args(Activation)} or a "
            "ClampedSwiglu"
        )


def check_types(x: Array, stacks: dict[str, Weight]) -> None:
    """Raises UnsupportedError for weights that no implementation serves, or that differ from x."""
    if x.dtype not in (jnp.bfloat16, jnp.float32):
        raise UnsupportedError(f"x in {x.dtype}: cast it to bfloat16 or float32")
    for name, w in stacks.items():
        if not isinstance(w, QuantizedWeight):
            if x.dtype != w.dtype:
                raise UnsupportedError(
                    f"x in {x.dtype} and {name} in {w.dtype}: no implementation mixes dtypes; cast x"
                )
        elif not isinstance(w, QUANTIZED_TYPES):
            known = ", ".join(kind.__name__ for kind in QUANTIZED_TYPES)
            raise UnsupportedError(
                f"{name} is of {type(w).__name__}: grouped products serve {known}, and arrays"
            )
        elif w.activations != "float":
            raise UnsupportedError(
                f"{name} with activations={w.activations!r}: x is not quantized for experts; make it of "
                'activations="float"'
            )
