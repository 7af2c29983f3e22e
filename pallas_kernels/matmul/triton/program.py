"""The static facts and the operands of a program, and how it reads weights."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.gating import Activation
from pallas_kernels.core.stacked import load_layer_index
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.matmul.tuning import MatmulBlocks, MatmulCall


class MatmulRefs(NamedTuple):
    """The operands; those that a call does not have are None."""

    x: Any
    w: Any
    layer: Any = None
    scale: Any = None
    residual: Any = None


class Sums(NamedTuple):
    """A program's share of the result for one row, or for several: `row` is a number, or [rows].

    `matrices` are [block_out], or [rows, block_out]: of the gate and of the others, or of the one matrix
    there is. `squares` are sums of x ** 2 over the program's inputs, and None without a norm.
    """

    row: Any
    matrices: list[Array]
    squares: Array | None

    def indices(self, column: Array, shape: "MatmulKernelShape") -> tuple[Any, Array, Array]:
        """Row, column and whether they are there, to index a result with."""
        inside = column < shape.call.num_out
        if isinstance(self.row, int):
            return self.row, column, inside
        return self.row[:, None], column[None, :], (self.row < shape.call.rows)[:, None] & inside[None, :]


@dataclass(frozen=True)
class MatmulKernelShape:
    """The facts of a call that a kernel is compiled for. `epsilon` is None without a norm."""

    call: MatmulCall
    blocks: MatmulBlocks
    epsilon: float | None
    activation: Activation = "silu"

    @property
    def padded_rows(self) -> int:
        return next_power_of_two(self.call.rows)

    @property
    def program_parts(self) -> int:
        """Equal shares of a program's inputs."""
        return self.blocks.dot_parts or 1

    @property
    def num_parts(self) -> int:
        """The parts of all splits together."""
        return self.blocks.num_splits * self.program_parts

    @property
    def part_tiles(self) -> int:
        """Iterations of a program: tiles of `block_in` inputs in a part."""
        return ceil_div(self.call.num_in, self.num_parts * self.blocks.block_in)

    @property
    def part_inputs(self) -> int:
        """A multiple of `block_in`, so that the last parts may lie beyond the inputs, partly or all."""
        return self.part_tiles * self.blocks.block_in

    @property
    def overhangs_inputs(self) -> bool:
        return self.num_parts * self.part_inputs != self.call.num_in

    @property
    def overhangs_outputs(self) -> bool:
        return self.call.num_out % self.blocks.block_out != 0


def column_offsets(shape: MatmulKernelShape) -> Array:
    """The outputs of this program."""
    return pl.program_id(0) * shape.blocks.block_out + jnp.arange(shape.blocks.block_out)


def layer_index(refs: MatmulRefs) -> tuple[Array, ...]:
    """The first index into a stack, () where there is none. Every load of weights waits for it."""
    return () if refs.layer is None else (load_layer_index(refs.layer),)


def load_scale(refs: MatmulRefs, layer: tuple, column: Array, inside: Array | None) -> Array:
    """The norm's scale at inputs `column`, zero outside."""
    index = (*layer, column) if len(refs.scale.shape) == 2 else (column,)
    return plt.load(refs.scale.at[index], mask=inside, other=None if inside is None else 0).astype(
        jnp.float32
    )


def load_weights(
    refs: MatmulRefs, layer: tuple, number: int, row: Array, column: Array, shape: MatmulKernelShape
) -> Array:
    """The weights of inputs `row` [n, 1 or m] and outputs `column` [1, m] in the gate (0) or in the others
    (1): [n, m], or [m, n] as they lie transposed."""
    inside = None
    if shape.overhangs_inputs:
        inside = (row < shape.call.num_in) & (column < shape.call.num_out)
    elif shape.overhangs_outputs:
        inside = jnp.broadcast_to(column < shape.call.num_out, jnp.broadcast_shapes(row.shape, column.shape))
    column = number * shape.call.num_out + column
    if shape.call.is_transposed:
        row, column, inside = column.T, row.T, None if inside is None else inside.T
    return plt.load(refs.w.at[(*layer, row, column)], mask=inside, other=None if inside is None else 0)
