"""What one program computes: products with the weights of its outputs and its inputs, summed in float32.

There are two ways, and `Blocks.dot_parts` is

    None    for float32: multiply and add in the threads, x row by row. The weights go from memory straight to
            registers; while one tile is multiplied the next is on its way.
    parts   for bfloat16: tensor cores, through shared memory, several tiles ahead. The dot's smallest shapes are larger
            than a few rows of x and a few outputs, so a program's inputs are cut into parts that lie side by side in
            one dot:

                left  [parts * block_out, block_in]   the weights of part 0, of part 1, ...
                right [block_in, parts * batch]       x at the inputs of part 0, of part 1, ...

            of whose product the blocks on the diagonal are wanted, and summed. So the tensor cores of all warps work
            for few outputs, and the chain of dots that wait for each other is shorter by the number of parts. One row
            of x costs what four do: up to there a dot has its smallest size, and what it adds to the weights in shared
            memory is a quarter.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.matvec.tuning import Blocks
from pallas_kernels.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two


@dataclass(frozen=True)
class Shape:
    """What the kernel knows about a call when it is compiled."""

    batch: int
    num_in: int
    num_out: int
    layer: int | None
    transposed: bool
    blocks: Blocks

    @property
    def padded_batch(self) -> int:
        return next_power_of_two(self.batch)

    @property
    def num_parts(self) -> int:
        """Equal shares of the inputs, counted over all splits."""
        return self.blocks.num_splits * (self.blocks.dot_parts or 1)

    @property
    def part_tiles(self) -> int:
        """Iterations of a program: tiles of `block_in` inputs in a part."""
        return ceil_div(self.num_in, self.num_parts * self.blocks.block_in)

    @property
    def part_inputs(self) -> int:
        """A multiple of `block_in`, so that the last parts may lie beyond the inputs, partly or all."""
        return self.part_tiles * self.blocks.block_in

    @property
    def needs_mask(self) -> bool:
        return self.num_parts * self.part_inputs != self.num_in or self.num_out % self.blocks.block_out != 0


def columns(shape: Shape) -> Array:
    """The outputs of this program."""
    return pl.program_id(0) * shape.blocks.block_out + jnp.arange(shape.blocks.block_out)


def program_sums(x_ref, w_ref, shape):
    """This program's share of the result: a tuple of `batch` [block_out], or an array [padded rows, block_out]."""
    return _multiply(x_ref, w_ref, shape) if shape.blocks.dot_parts is None else _dot(x_ref, w_ref, shape)


def _multiply(x_ref, w_ref, shape):
    column = columns(shape)
    begin = pl.program_id(1) * shape.part_inputs + jnp.arange(shape.blocks.block_in)
    in_axis = 1 if shape.transposed else 0

    def load(i):
        row = begin + i * shape.blocks.block_in
        return _load_weights(w_ref, row[:, None], column[None, :], shape)

    def add(i, sums, w):
        row = begin + i * shape.blocks.block_in
        x = [plt.load(x_ref.at[b, row], mask=row < shape.num_in, other=0) for b in range(shape.batch)]
        spread = [jnp.expand_dims(values, 1 - in_axis) for values in x]
        return tuple(total + (w * values).sum(in_axis) for total, values in zip(sums, spread, strict=True))

    def one_tile(i, carry):
        sums, w = carry
        following = load(i + 1)  # on its way while this tile is multiplied
        return add(i, sums, w), following

    last = shape.part_tiles - 1
    start = tuple(jnp.zeros((shape.blocks.block_out,), jnp.float32) for _ in range(shape.batch)), load(0)
    sums, w = jax.lax.fori_loop(0, last, one_tile, start) if last else start
    return add(last, sums, w)


def _dot(x_ref, w_ref, shape):
    blocks, parts = shape.blocks, shape.blocks.dot_parts
    left = jnp.arange(parts * blocks.block_out)
    right = jnp.arange(max(MIN_DOT_SIZE, parts * shape.padded_batch))
    left_part, right_part = jax.lax.div(left, blocks.block_out), jax.lax.div(right, shape.padded_batch)
    column = pl.program_id(0) * blocks.block_out + jax.lax.rem(left, blocks.block_out)
    x_row = jax.lax.rem(right, shape.padded_batch)
    is_row = (x_row < shape.batch) & (right_part < parts)
    begin = pl.program_id(1) * parts * shape.part_inputs + jnp.arange(blocks.block_in)

    def one_tile(i, acc):
        row = begin + i * blocks.block_in
        w_rows = row[:, None] + (left_part * shape.part_inputs)[None, :]
        x_columns = row[None, :] + (right_part * shape.part_inputs)[:, None]
        w = _load_weights(w_ref, w_rows, column[None, :], shape)
        inside = is_row[:, None] & (x_columns < shape.num_in)
        x = plt.load(x_ref.at[x_row[:, None], x_columns], mask=inside, other=0)
        return acc + plt.dot(w if shape.transposed else w.T, x.T)

    acc = jax.lax.fori_loop(0, shape.part_tiles, one_tile, jnp.zeros((left.size, right.size), jnp.float32))
    if parts == 1:
        return acc.T
    acc = jnp.where(left_part[:, None] == right_part[None, :], acc, 0)
    acc = acc.reshape(parts, blocks.block_out, right.size).sum(0)
    return acc.reshape(blocks.block_out, -1, shape.padded_batch).sum(1).T


def _load_weights(w_ref, row, column, shape):
    """The weights of inputs `row` [n, 1 or m] and outputs `column` [1, m]: [n, m], or [m, n] as they lie transposed."""
    indices = (column.T, row.T) if shape.transposed else (row, column)
    index = indices if shape.layer is None else (shape.layer, *indices)
    if not shape.needs_mask:
        return plt.load(w_ref.at[index])
    inside = (row < shape.num_in) & (column < shape.num_out)
    return plt.load(w_ref.at[index], mask=inside.T if shape.transposed else inside, other=0)
