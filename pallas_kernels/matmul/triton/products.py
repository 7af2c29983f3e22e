"""A program's sums in float32, which tensor cores would round to TF32: multiplied and added in the threads,
row by row.

The weights go from memory straight to registers; while one tile is multiplied the next is on its way.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.matmul.triton.program import (
    MatmulKernelShape,
    MatmulRefs,
    Sums,
    column_offsets,
    layer_index,
    load_scale,
    load_weights,
)


class _RowSums(NamedTuple):
    """The sums of one row of x: [block_out] for each matrix, and squares [block_in] where there is a norm."""

    matrices: list[Array]
    squares: Array | None


def product_sums(refs: MatmulRefs, shape: MatmulKernelShape) -> list[Sums]:
    """One for each row of x."""
    column = column_offsets(shape)
    layer = layer_index(refs)
    block_in = shape.blocks.block_in
    begin = pl.program_id(1) * shape.part_inputs + jnp.arange(block_in)

    def load(i):
        row = begin + i * block_in
        numbers = range(shape.call.num_matrices)
        return [load_weights(refs, layer, n, row[:, None], column[None, :], shape) for n in numbers]

    def one_tile(i, carry):
        rows, w = carry
        following = load(i + 1)  # on its way while this tile is multiplied
        return _add(refs, layer, begin + i * block_in, rows, w, shape), following

    last = shape.part_tiles - 1
    start = [_zero_sums(shape) for _ in range(shape.call.rows)], load(0)
    rows, w = jax.lax.fori_loop(0, last, one_tile, start) if last else start
    rows = _add(refs, layer, begin + last * block_in, rows, w, shape)
    squares = [None if row.squares is None else row.squares.sum() for row in rows]
    return [Sums(row=b, matrices=row.matrices, squares=squares[b]) for b, row in enumerate(rows)]


def _zero_sums(shape: MatmulKernelShape) -> _RowSums:
    sums = [jnp.zeros((shape.blocks.block_out,), jnp.float32) for _ in range(shape.call.num_matrices)]
    return _RowSums(sums, None if shape.epsilon is None else jnp.zeros((shape.blocks.block_in,), jnp.float32))


def _add(
    refs: MatmulRefs, layer: tuple, column, rows: list[_RowSums], w: list[Array], shape: MatmulKernelShape
) -> list[_RowSums]:
    """`rows` with the products of x at inputs `column` [block_in] and their weights added."""
    in_axis = 1 if shape.call.is_transposed else 0
    inside = column < shape.call.num_in
    scale = None if shape.epsilon is None else load_scale(refs, layer, column, inside)
    added = []
    for b, row in enumerate(rows):
        x = plt.load(refs.x.at[b, column], mask=inside, other=0)
        squares = row.squares
        if scale is not None and squares is not None:
            x, squares = x * scale, squares + x * x
        spread = jnp.expand_dims(x, 1 - in_axis)
        sums = [total + (tile * spread).sum(in_axis) for total, tile in zip(row.matrices, w, strict=True)]
        added.append(_RowSums(sums, squares))
    return added
