"""A program's sums with quantized weights, which become floats in registers.

The weights are the left operand of a dot: only there it may come from registers. The gathered rows of x are
the right one. Scales of groups of inputs are applied to the sums of a tile, and loaded a tile ahead by hand:
the compiler loads ahead only what a dot reads.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div, multiply_add
from pallas_kernels.core.weights.four_bits import PIECE, SLOT
from pallas_kernels.core.widening import Kind
from pallas_kernels.grouped_matmul.tuning import GroupedBlocks, GroupedCall


class QuantizedTiles(NamedTuple):
    """The tiles that a program reads: of the outputs `column` of a matrix, and of the rows `x_row`."""

    x_ref: Any
    w_ref: Any
    scales_ref: Any
    kind: Kind
    call: GroupedCall
    blocks: GroupedBlocks
    matrix: tuple[Any, Any]  # the layer and the group
    x_row: Array
    column: Array
    interpret: bool

    @property
    def num_elements(self) -> int:
        """The elements of an output."""
        return self.w_ref.shape[-1]

    def first_input(self, i, code: int):
        """The input of the first of these codes in tile i; the others of the tile follow."""
        return self.kind.input_of(i * self.blocks.block_in) + code * SLOT


def quantized_sums(tiles: QuantizedTiles) -> list[Array]:
    """[rows, block_out] of each matrix, in float32."""
    shape = tiles.column.size, tiles.x_row.size

    def one_tile(i, carry):
        accs, scales = carry
        following = _load_scales(tiles, i + 1)
        return _add_tile(tiles, i, accs, scales), following

    zeros = [jnp.zeros(shape, jnp.float32) for _ in range(tiles.call.num_matrices)]
    num_tiles = ceil_div(tiles.num_elements, tiles.blocks.block_in)
    accs, _ = jax.lax.fori_loop(0, num_tiles, one_tile, (zeros, _load_scales(tiles, 0)))
    if tiles.kind.group_size is None:
        accs = [acc * _load_output_scales(tiles, n)[:, None] for n, acc in enumerate(accs)]
    return [acc.T for acc in accs]


def _add_tile(tiles: QuantizedTiles, i, accs: list[Array], scales: list[list[Array | None]]) -> list[Array]:
    """The sums with the products of tile i, of one matrix after the other."""
    xs = [_load_x(tiles, i, code) for code in range(tiles.kind.num_codes)]
    of_a_group = tiles.kind.codes_of_a_group
    added = []
    for number, (acc, of_matrix) in enumerate(zip(accs, scales, strict=True)):
        codes = tiles.kind.widen(_load_elements(tiles, i, number), None, interpret=tiles.interpret)
        for group, factor in enumerate(of_matrix):
            here = slice(group * of_a_group, (group + 1) * of_a_group)
            acc = _add_products(acc, codes[here], xs[here], factor, tiles.interpret)
        added.append(acc)
    return added


def _add_products(
    acc: Array, codes: list[Array], xs: list[Array], factor: Array | None, interpret: bool
) -> Array:
    """acc + the sum of the products of all codes, times their factor."""
    products = [plt.dot(w, x.T) for w, x in zip(codes, xs, strict=True)]
    if factor is None:
        return acc + sum(products)
    return multiply_add(sum(products[1:], products[0]), factor[:, None], acc, interpret=interpret)


def _load_elements(tiles: QuantizedTiles, i, number: int) -> Array:
    """[block_out, block_in] of the gate (0) or of the others (1)."""
    call, block_in = tiles.call, tiles.blocks.block_in
    element = i * block_in + jnp.arange(block_in)
    index = *tiles.matrix, number * call.num_out + tiles.column[:, None], element[None, :]
    if tiles.num_elements % block_in == 0 and call.num_out % tiles.column.size == 0:
        return plt.load(tiles.w_ref.at[index])
    mask = (tiles.column < call.num_out)[:, None] & (element < tiles.num_elements)[None, :]
    return plt.load(tiles.w_ref.at[index], mask=mask, other=jnp.zeros((), tiles.w_ref.dtype))


def _load_x(tiles: QuantizedTiles, i, code: int) -> Array:
    """[rows, block_in], of the inputs of a code."""
    inputs = tiles.first_input(i, code) + jnp.arange(tiles.blocks.block_in)
    index = tiles.x_row[:, None], inputs[None, :]
    if tiles.call.num_in % (tiles.blocks.block_in if tiles.kind.num_codes == 1 else PIECE) == 0:
        return plt.load(tiles.x_ref.at[index])
    mask = jnp.broadcast_to((inputs < tiles.call.num_in)[None, :], (tiles.x_row.size, inputs.size))
    return plt.load(tiles.x_ref.at[index], mask=mask, other=0)


def _load_scales(tiles: QuantizedTiles, i) -> list[list[Array | None]]:
    """[block_out] by matrix and by group of tile i; None where there are no groups."""
    kind = tiles.kind
    if kind.group_size is None:
        return [[None] for _ in range(tiles.call.num_matrices)]
    return [
        [_load_group(tiles, i, number, code) for code in range(0, kind.num_codes, kind.codes_of_a_group)]
        for number in range(tiles.call.num_matrices)
    ]


def _load_group(tiles: QuantizedTiles, i, number: int, code: int) -> Array:
    """The scales of a group, zero behind the last one."""
    kind, call = tiles.kind, tiles.call
    assert kind.group_size is not None
    group = jax.lax.div(tiles.first_input(i, code), kind.group_size)
    is_group = (group < ceil_div(call.num_in, kind.group_size)) & (tiles.column < call.num_out)
    output = number * call.num_out + tiles.column
    index = group, output
    if kind.group_out > 1:  # blocks are [out_blocks, in_blocks], and groups [groups, out]
        index = jax.lax.div(output, kind.group_out), group
    loaded = plt.load(tiles.scales_ref.at[(*tiles.matrix, *index)], mask=is_group, other=0)
    return kind.widen_scales(loaded)


def _load_output_scales(tiles: QuantizedTiles, number: int) -> Array:
    inside = tiles.column < tiles.call.num_out
    output = number * tiles.call.num_out + tiles.column
    return plt.load(tiles.scales_ref.at[(*tiles.matrix, output)], mask=inside, other=0)
