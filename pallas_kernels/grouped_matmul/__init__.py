"""Products of rows with matrices of their groups, such as experts, whose rows lie in blocks of one group each
(Gale et al., "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts", 2022)."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, Integer

from pallas_kernels.core.gating import ExpertActivation
from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.core.weights import QuantizedWeight
from pallas_kernels.grouped_matmul import reference, triton
from pallas_kernels.grouped_matmul.contract import GroupedFusion, check_arguments
from pallas_kernels.grouped_matmul.groups import RowGroups

__all__ = ["RowGroups", "group_rows", "grouped_matmul"]


def group_rows(
    group_ids: Integer[Array, " rows"],
    num_groups: int,
    *,
    block_rows: int,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> RowGroups:
    """Sorts rows by group, in their order within a group, into blocks of `block_rows` places.

    A row whose id is outside of 0 to num_groups - 1 is in no block. With `block_rows` 1 nothing is sorted:
    each row is a block.

    Raises ValueError for `block_rows` that is no power of two.
    """
    if block_rows < 1 or block_rows & (block_rows - 1):
        raise ValueError(f"block_rows={block_rows} must be a power of two")
    chosen = select(implementation)
    if block_rows == 1:
        return RowGroups(group_ids.astype(jnp.int32), None, None, group_ids.shape[0], 1)
    if chosen == "reference":
        return reference.group_rows(group_ids, num_groups, block_rows)
    return triton.group_rows(group_ids, num_groups, block_rows, interpret=should_interpret(interpret))


def grouped_matmul(
    x: Float[Array, "x_rows in"],
    w: Float[Array, "layers groups in out"] | QuantizedWeight,
    groups: RowGroups,
    *,
    layer: int | Int32[Array, ""],
    bias: Float[Array, "layers groups out"] | None = None,
    gate: ExpertActivation | None = None,
    row_weights: Float[Array, " rows"] | None = None,
    out_dtype: DTypeLike | None = None,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "rows out"]:
    """row_weights * gate(x @ w[layer, g] + bias[layer, g]) of each row and its group g, where they are given.

    A row r of the groups is row r // (rows / x_rows) of x: x has as many rows, or each stands for several
    that follow each other, as a token does for its experts. A `gate` makes out / 2 results of the columns of
    a gate and then as many others. `out_dtype` is x's own where None. Rows of no group are left undefined.

    All sums are float32, and are rounded once, at the end. A row's bits depend on no other row.

    Raises ValueError where arguments contradict each other, and UnsupportedError for weights that the
    implementation does not serve.
    """
    fusion = GroupedFusion(bias, gate, row_weights)
    check_arguments(x, w, groups, layer, fusion)
    out_dtype = x.dtype if out_dtype is None else out_dtype
    if select(implementation) == "reference":
        return reference.grouped_matmul(x, w, groups, layer=layer, fusion=fusion, out_dtype=out_dtype)
    return triton.grouped_matmul(
        x,
        w,
        groups,
        layer=layer,
        fusion=fusion,
        out_dtype=out_dtype,
        interpret=should_interpret(interpret),
    )
