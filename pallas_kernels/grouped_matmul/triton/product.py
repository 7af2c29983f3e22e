"""The program of the grouped product: the rows of a block times some columns of its group's matrix.

The rows are gathered from x by their ids, the left operand of a dot; the tile of weights is the right one.
What fills a block up are copies of the first row of x, which go nowhere.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.gating import ExpertActivation, gated
from pallas_kernels.core.precision import full_precision
from pallas_kernels.core.stacked import load_layer_index
from pallas_kernels.core.triton_call import ceil_div
from pallas_kernels.core.widening import Kind
from pallas_kernels.grouped_matmul.triton.quantized import QuantizedTiles, quantized_sums
from pallas_kernels.grouped_matmul.tuning import GroupedBlocks, GroupedCall


class GroupedRefs(NamedTuple):
    """The operands; those that a call does not have are None."""

    x: Any
    w: Any
    layer: Any
    group_of_block: Any
    scales: Any = None
    sizes: Any = None
    row_ids: Any = None
    bias: Any = None
    row_weights: Any = None


@dataclass(frozen=True)
class GroupedKernelShape:
    """The facts of a call that a kernel is compiled for. A row of x stands for `rows_of_x` rows of groups;
    `kind` is of quantized weights."""

    call: GroupedCall
    blocks: GroupedBlocks
    rows_of_x: int
    gate: ExpertActivation | None
    kind: Kind | None = None
    interpret: bool = False


class _Block(NamedTuple):
    """The group of this program's rows, and the rows [dot_rows]: whether there is one, and its id."""

    group: Array
    is_row: Array
    row: Array


def grouped_kernel(refs: GroupedRefs, out_ref, shape: GroupedKernelShape) -> None:
    """One program per (block of outputs, block of rows)."""
    column = pl.program_id(0) * shape.blocks.block_out + jnp.arange(shape.blocks.block_out)
    block = pl.program_id(1)
    group = plt.load(refs.group_of_block.at[block])
    size = jnp.int32(1) if refs.sizes is None else plt.load(refs.sizes.at[block])

    @pl.when((size > 0) & (group >= 0) & (group < shape.call.num_groups))
    def _():
        rows = _rows(refs, block, group, size, shape)
        layer = load_layer_index(refs.layer)
        sums = (_sums if shape.kind is None else _quantized_sums)(refs, layer, rows, column, shape)
        _store(refs, out_ref, layer, rows, column, sums, shape)


def _rows(refs: GroupedRefs, block, group, size, shape: GroupedKernelShape) -> _Block:
    place = jnp.arange(shape.call.dot_rows)
    is_row = place < size
    if refs.row_ids is None:
        return _Block(group, is_row, jnp.where(is_row, block, 0))
    row = plt.load(refs.row_ids.at[block * shape.call.block_rows + place], mask=is_row, other=0)
    return _Block(group, is_row, row)


def _sums(refs: GroupedRefs, layer, rows: _Block, column: Array, shape: GroupedKernelShape) -> list[Array]:
    """[dot_rows, block_out] of each matrix, in float32."""
    call, block_in = shape.call, shape.blocks.block_in
    x_row = _x_row(rows, shape)
    precision = full_precision(refs.x.dtype)

    def one_tile(i, accs):
        inputs = i * block_in + jnp.arange(block_in)
        mask = None if call.num_in % block_in == 0 else inputs < call.num_in
        x = _load(refs.x, (x_row[:, None], inputs[None, :]), None if mask is None else mask[None, :])
        tiles = [
            _load_weights(refs, layer, rows.group, n, inputs, column, shape) for n in range(call.num_matrices)
        ]
        return [acc + plt.dot(x, w, precision=precision) for acc, w in zip(accs, tiles, strict=True)]

    zeros = [jnp.zeros((call.dot_rows, column.size), jnp.float32) for _ in range(call.num_matrices)]
    return jax.lax.fori_loop(0, ceil_div(call.num_in, block_in), one_tile, zeros)


def _quantized_sums(
    refs: GroupedRefs, layer, rows: _Block, column: Array, shape: GroupedKernelShape
) -> list[Array]:
    """The same of quantized weights."""
    assert shape.kind is not None
    matrix, x_row = (layer, rows.group), _x_row(rows, shape)
    of_call = refs.x, refs.w, refs.scales, shape.kind, shape.call, shape.blocks
    return quantized_sums(QuantizedTiles(*of_call, matrix, x_row, column, shape.interpret))


def _x_row(rows: _Block, shape: GroupedKernelShape) -> Array:
    return jax.lax.div(rows.row, shape.rows_of_x) if shape.rows_of_x > 1 else rows.row


def _load_weights(
    refs: GroupedRefs, layer, group, number: int, inputs: Array, column: Array, shape: GroupedKernelShape
) -> Array:
    """[block_in, block_out] of the gate (0) or of the others (1)."""
    call = shape.call
    mask = None
    if call.num_in % inputs.size or call.num_out % column.size:
        mask = (inputs < call.num_in)[:, None] & (column < call.num_out)[None, :]
    index = layer, group, inputs[:, None], number * call.num_out + column[None, :]
    return _load(refs.w, index, mask)


def _load(ref, index: tuple, mask: Array | None) -> Array:
    if mask is None:
        return plt.load(ref.at[index])
    size = jnp.broadcast_shapes(*(i.shape for i in index if getattr(i, "ndim", 0)))
    return plt.load(ref.at[index], mask=jnp.broadcast_to(mask, size), other=0)


def _store(refs: GroupedRefs, out_ref, layer, rows: _Block, column: Array, sums: list[Array], shape) -> None:
    """Rows that are none get addresses of their own behind the result, where nothing is stored."""
    call = shape.call
    inside = column < call.num_out
    if refs.bias is not None:
        sums = [
            total + _load_bias(refs, layer, rows.group, n * call.num_out + column, inside)
            for n, total in enumerate(sums)
        ]
    result = sums[0] if shape.gate is None else gated(sums[0], sums[1], shape.gate)
    if refs.row_weights is not None:
        weight = plt.load(refs.row_weights.at[rows.row], mask=rows.is_row, other=0).astype(jnp.float32)
        result = result * weight[:, None]
    row = jnp.where(rows.is_row, rows.row, call.rows + jnp.arange(call.dot_rows))
    mask = rows.is_row[:, None] & inside[None, :]
    plt.store(out_ref.at[row[:, None], column[None, :]], result.astype(out_ref.dtype), mask=mask)


def _load_bias(refs: GroupedRefs, layer, group, column: Array, inside: Array) -> Array:
    bias = plt.load(refs.bias.at[layer, group, column], mask=inside, other=0)
    return bias.astype(jnp.float32)[None, :]
