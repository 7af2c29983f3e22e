"""A program's sums in bfloat16, on tensor cores: weights and x go through shared memory, several tiles ahead.

The weights are the left operand and the few rows of x the right one, so that a dot is as wide as the rows
need and no wider. With the fewest rows the dot's smallest shapes are larger than rows and outputs; then a
program's inputs are cut into parts that lie side by side in one dot:

    left  [parts * block_out, block_in]   the weights of part 0, of part 1, ...
    right [block_in, parts * rows]        x at the inputs of part 0, of part 1, ...

of whose product the blocks on the diagonal are wanted, and summed. So the tensor cores of all warps work for
few outputs, and the chain of dots that wait for each other is shorter by the number of parts. One row of x
costs what four do: up to there a dot has its smallest size, and what it adds to the weights in shared memory
is a quarter.

A gate and what it multiplies are two left operands that share the right one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import MIN_DOT_SIZE
from pallas_kernels.matmul.triton.program import (
    MatmulKernelShape,
    MatmulRefs,
    Sums,
    layer_index,
    load_scale,
    load_weights,
)


class Operands(NamedTuple):
    """The origin of the rows of both operands: a part of the inputs, and an output or a row of x."""

    left_part: Array
    column: Array
    right_part: Array
    x_row: Array
    is_row: Array | None  # where some of x_row are not

    @classmethod
    def of(cls, shape: MatmulKernelShape) -> "Operands":
        block_out = shape.blocks.block_out
        parts = shape.program_parts
        left = jnp.arange(parts * block_out)
        right = jnp.arange(max(MIN_DOT_SIZE, parts * shape.padded_rows))
        left_part = jax.lax.div(left, block_out)
        right_part = jax.lax.div(right, shape.padded_rows)
        x_row = jax.lax.rem(right, shape.padded_rows)
        is_whole = right.size == parts * shape.call.rows
        is_row = None if is_whole else (x_row < shape.call.rows) & (right_part < parts)
        column = pl.program_id(0) * block_out + jax.lax.rem(left, block_out)
        return cls(left_part, column, right_part, x_row, is_row)


def dot_sums(refs: MatmulRefs, shape: MatmulKernelShape) -> list[Sums]:
    """All rows of x at once."""
    layer = layer_index(refs)
    operands = Operands.of(shape)
    begin = pl.program_id(1) * shape.program_parts * shape.part_inputs + jnp.arange(shape.blocks.block_in)

    def one_tile(i, carry):
        accs, squares = carry
        row = begin + i * shape.blocks.block_in
        x, squares = _load_x(refs, layer, operands, row, squares, shape)
        w_rows = row[:, None] + (operands.left_part * shape.part_inputs)[None, :]
        tiles = [
            load_weights(refs, layer, number, w_rows, operands.column[None, :], shape)
            for number in range(len(accs))
        ]
        left = tiles if shape.call.is_transposed else [w.T for w in tiles]
        return [acc + plt.dot(w, x.T) for acc, w in zip(accs, left, strict=True)], squares

    num_left, num_right = operands.column.size, operands.x_row.size
    zeros = [jnp.zeros((num_left, num_right), jnp.float32) for _ in range(shape.call.num_matrices)]
    squares = None if shape.epsilon is None else jnp.zeros((num_right, shape.blocks.block_in), jnp.float32)
    accs, squares = jax.lax.fori_loop(0, shape.part_tiles, one_tile, (zeros, squares))
    matrices = [over_parts(acc, operands, shape) for acc in accs]
    row = jnp.arange(matrices[0].shape[0])
    return [
        Sums(
            row=row,
            matrices=matrices,
            squares=None if squares is None else squares_over_parts(squares, shape),
        )
    ]


def _load_x(
    refs: MatmulRefs, layer: tuple, operands: Operands, row, squares: Array | None, shape: MatmulKernelShape
):
    """x [right, block_in], scaled where there is a norm, and the squares with those of x added."""
    column = row[None, :] + (operands.right_part * shape.part_inputs)[:, None]
    inside = None if operands.is_row is None else jnp.broadcast_to(operands.is_row[:, None], column.shape)
    if shape.overhangs_inputs:
        is_input = column < shape.call.num_in
        inside = is_input if inside is None else inside & is_input
    x = plt.load(refs.x.at[operands.x_row[:, None], column], mask=inside, other=None if inside is None else 0)
    if squares is None:
        return x, None
    wide = x.astype(jnp.float32)
    return (wide * load_scale(refs, layer, column, inside)).astype(x.dtype), squares + wide * wide


def over_parts(acc: Array, operands: Operands, shape: MatmulKernelShape) -> Array:
    """The sums of the blocks on the diagonal, [rows, block_out]."""
    if shape.program_parts == 1:
        return acc.T
    acc = jnp.where(operands.left_part[:, None] == operands.right_part[None, :], acc, 0)
    acc = acc.reshape(shape.program_parts, shape.blocks.block_out, -1).sum(0)
    return acc.reshape(shape.blocks.block_out, -1, shape.padded_rows).sum(1).T


def squares_over_parts(squares: Array, shape: MatmulKernelShape) -> Array:
    """[rows, 1]. Without parts a right row is a row of x, if any."""
    by_row = squares.sum(1)
    if shape.program_parts > 1:
        by_row = by_row.reshape(-1, shape.padded_rows).sum(0)
    return by_row[:, None]
