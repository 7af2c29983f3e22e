"""Groups, and the products of their rows, in plain jax.numpy and float32."""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.gating import ClampedSwiglu, ExpertActivation
from pallas_kernels.core.weights import QuantizedWeight, Weight
from pallas_kernels.grouped_matmul.contract import GroupedFusion
from pallas_kernels.grouped_matmul.groups import RowGroups, max_blocks


def group_rows(group_ids: Array, num_groups: int, block_rows: int) -> RowGroups:
    """See `pallas_kernels.grouped_matmul.group_rows`."""
    num_rows = group_ids.shape[0]
    is_mine = group_ids[:, None] == jnp.arange(num_groups)
    totals = is_mine.sum(0)
    blocks = -(-totals // block_rows)
    ends = jnp.cumsum(blocks)
    num_blocks = max_blocks(num_rows, num_groups, block_rows)
    block = jnp.arange(num_blocks)
    group_of_block = (block[:, None] >= ends).sum(1)
    start = jnp.append(ends - blocks, 0)
    sizes = jnp.append(totals, 0)[group_of_block] - (block - start[group_of_block]) * block_rows
    rank = jnp.where(is_mine, jnp.cumsum(is_mine, axis=0) - 1, 0).sum(1)
    group = jnp.where(is_mine.any(1), is_mine.argmax(1), num_groups)
    place = jnp.where(group < num_groups, start[group] * block_rows + rank, num_blocks * block_rows)
    row_ids = jnp.zeros(num_blocks * block_rows, jnp.int32).at[place].set(jnp.arange(num_rows), mode="drop")
    sizes = jnp.where(group_of_block < num_groups, jnp.clip(sizes, 0, block_rows), 0)
    return RowGroups(group_of_block.astype(jnp.int32), sizes.astype(jnp.int32), row_ids, num_rows, block_rows)


def grouped_matmul(
    x: Array, w: Weight, groups: RowGroups, *, layer: int | Array, fusion: GroupedFusion, out_dtype: DTypeLike
) -> Array:
    """See `pallas_kernels.grouped_matmul.grouped_matmul`."""
    group_of_row = _group_of_row(groups, w.shape[1])
    wide = jnp.repeat(x.astype(jnp.float32), groups.num_rows // x.shape[0], axis=0)
    matrices = jax.tree.map(lambda leaf: leaf[layer], w)
    if isinstance(matrices, QuantizedWeight):
        matrices = matrices.dequantized(jnp.float32)

    def add(group, result):
        y = jnp.matmul(wide, matrices[group].astype(jnp.float32), precision=Precision.HIGHEST)
        if fusion.bias is not None:
            y = y + fusion.bias[layer, group].astype(jnp.float32)
        if fusion.gate is not None:
            y = _gated(y, fusion.gate)
        if fusion.row_weights is not None:
            y = y * fusion.row_weights.astype(jnp.float32)[:, None]
        return jnp.where((group_of_row == group)[:, None], y, result)

    num_out = w.shape[3] // (1 if fusion.gate is None else 2)
    result = jnp.zeros((groups.num_rows, num_out), jnp.float32)
    return jax.lax.fori_loop(0, w.shape[1], add, result).astype(out_dtype)


def _group_of_row(groups: RowGroups, num_groups: int) -> Array:
    if groups.row_ids is None or groups.sizes is None:
        return groups.group_of_block
    offset = jnp.arange(groups.num_blocks * groups.block_rows)
    is_row = offset % groups.block_rows < jnp.repeat(groups.sizes, groups.block_rows)
    place = jnp.where(is_row, groups.row_ids[: offset.size], groups.num_rows)
    group = jnp.repeat(groups.group_of_block, groups.block_rows)
    return jnp.full(groups.num_rows, num_groups).at[place].set(group, mode="drop")


def _gated(y: Array, activation: ExpertActivation) -> Array:
    gate, up = jnp.split(y, 2, axis=-1)
    if isinstance(activation, ClampedSwiglu):
        gate = jnp.minimum(gate, activation.limit)
        up = jnp.clip(up, -activation.limit, activation.limit)
        return gate * jax.nn.sigmoid(activation.alpha * gate) * (up + 1)
    if activation == "silu":
        return jax.nn.silu(gate) * up
    return jax.nn.gelu(gate, approximate=True) * up
