"""The arguments of a grouped product: what is fused to it, and what contradicts what."""

from typing import NamedTuple

from jaxtyping import Array

from pallas_kernels.core.gating import ExpertActivation
from pallas_kernels.core.stacks import check_activation, check_stack_types
from pallas_kernels.core.weights import Weight
from pallas_kernels.grouped_matmul.groups import RowGroups


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
    check_stack_types(x, {"w": w})


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
