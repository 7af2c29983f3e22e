"""The operands of a program with quantized weights, and how it reads a tile of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div
from pallas_kernels.core.weights.four_bits import SLOT
from pallas_kernels.core.weights.int4 import ZEROS_OF_A_WORD
from pallas_kernels.core.widening.kinds import Kind
from pallas_kernels.matmul.triton.dots import Operands
from pallas_kernels.matmul.triton.program import MatmulKernelShape, MatmulRefs, layer_index, load_scale


class QuantizedRefs(NamedTuple):
    """The operands of a program; those that a call does not have are None.

    `product` has x, the elements of the weights as w, the layer, and the norm's scale. Where there are
    `shifts`, the zeros of as many groups lie in a word, shifted by these.
    """

    product: MatmulRefs
    scales: Any
    zeros: Any = None
    shifts: Any = None
    row_scales: Any = None
    bias: Any = None


class Loop(NamedTuple):
    """The facts that all tiles of a program share. `shape.call.num_in` counts elements of an output, and
    `num_in` inputs."""

    refs: QuantizedRefs
    kind: Kind
    shape: MatmulKernelShape
    num_in: int
    layer: tuple
    operands: Operands
    begin: Any  # the first byte of this program
    interpret: bool

    @classmethod
    def of(
        cls, refs: QuantizedRefs, kind: Kind, shape: MatmulKernelShape, num_in: int, interpret: bool
    ) -> "Loop":
        begin = pl.program_id(1) * shape.program_parts * shape.part_inputs
        layer = layer_index(refs.product)
        return cls(refs, kind, shape, num_in, layer, Operands.of(shape), begin, interpret)

    def position(self, i) -> Array:
        """The first byte of tile i, of each part."""
        return self.begin + i * self.shape.blocks.block_in

    def input_of(self, position, code: int):
        return self.kind.input_of(position) + code * SLOT


def load_elements(loop: Loop, i, number: int) -> Array:
    """The elements of tile i [left, block_in], in the gate (0) or in the others (1)."""
    shape, operands = loop.shape, loop.operands
    position = loop.position(i) + jnp.arange(shape.blocks.block_in)
    byte = position[None, :] + (operands.left_part * shape.part_inputs)[:, None]
    row = operands.column[:, None]
    inside = None
    if shape.overhangs_inputs:
        inside = (row < shape.call.num_out) & (byte < shape.call.num_in)
    elif shape.overhangs_outputs:
        inside = jnp.broadcast_to(row < shape.call.num_out, byte.shape)
    index = (*loop.layer, number * shape.call.num_out + row, byte)
    ref = loop.refs.product.w
    other = None if inside is None else jnp.zeros((), ref.dtype)  # a 0 of Python is no fp8 to Triton
    return plt.load(ref.at[index], mask=inside, other=other)


def load_x(loop: Loop, i, code: int, squares: Array | None):
    """x [right, block_in] at the inputs of a code of tile i, scaled where there is a norm, and the squares
    with those of x added."""
    shape, operands = loop.shape, loop.operands
    first = loop.position(i) + operands.right_part * shape.part_inputs
    column = loop.input_of(first, code)[:, None] + jnp.arange(shape.blocks.block_in)[None, :]
    inside = None if operands.is_row is None else jnp.broadcast_to(operands.is_row[:, None], column.shape)
    if shape.overhangs_inputs or loop.num_in != shape.call.num_in * loop.kind.num_codes:
        is_input = column < loop.num_in
        inside = is_input if inside is None else inside & is_input
    x_ref = loop.refs.product.x
    x = plt.load(x_ref.at[operands.x_row[:, None], column], mask=inside, other=None if inside is None else 0)
    if squares is None:
        return x, None
    wide = x.astype(jnp.float32)
    scale = load_scale(loop.refs.product, loop.layer, column, inside)
    return (wide * scale).astype(x.dtype), squares + wide * wide


class _Groups(NamedTuple):
    """The group of each left row, whether there is one, and the row's output."""

    group: Array
    inside: Array
    output: Array


def _groups(loop: Loop, i, number: int, code: int) -> _Groups:
    kind, shape, operands = loop.kind, loop.shape, loop.operands
    first = loop.input_of(loop.position(i) + operands.left_part * shape.part_inputs, code)
    group_size = kind.group_size or loop.num_in
    group = jnp.zeros_like(first) if kind.group_size is None else jax.lax.div(first, group_size)
    output = jnp.minimum(operands.column, shape.call.num_out - 1) + number * shape.call.num_out
    return _Groups(group, group < ceil_div(loop.num_in, group_size), output)


def load_zeros(loop: Loop, i, number: int) -> list[Array] | None:
    """Zeros of tile i for each code, [left].

    They are the tile's own and not carried: what a dot reads, and has four bytes, the compiler loads ahead.
    It moves the bytes of weights to registers before they become floats only where all that meets them on
    their way was loaded; so shifts are loaded too.
    """
    if not loop.kind.has_zeros:
        return None
    groups = [_groups(loop, i, number, code) for code in _first_codes(loop.kind)]
    if loop.refs.shifts is None:
        return [_load_group(loop.refs.zeros, loop, of_code) for of_code in groups]
    zeros: list[Array] = []
    for of_code in groups:
        word = _load_group(
            loop.refs.zeros, loop, of_code._replace(group=jax.lax.div(of_code.group, ZEROS_OF_A_WORD))
        )
        shift = plt.load(loop.refs.shifts.at[jax.lax.rem(of_code.group, ZEROS_OF_A_WORD)])
        zero = (jax.lax.shift_right_logical(word, shift) & 15).astype(jnp.int32)
        zeros += [zero] * loop.kind.codes_of_a_group
    return zeros


def _load_group(ref, loop: Loop, groups: _Groups) -> Array:
    """ref[group, output] of each left row; zero where there is none."""
    return plt.load(ref.at[(*loop.layer, groups.group, groups.output)], mask=groups.inside, other=0)


def _first_codes(kind: Kind) -> range:
    """The first code of each group in an element."""
    return range(0, kind.num_codes, kind.codes_of_a_group)


def load_scales(loop: Loop, i) -> list[list[Array | None]]:
    """Scales of tile i by matrix and by group, [left, 1] or [left, right]; None where there are no groups."""
    return [
        [_load_scale(loop, i, number, code) for code in _first_codes(loop.kind)]
        for number in range(loop.shape.call.num_matrices)
    ]


def _load_scale(loop: Loop, i, number: int, code: int) -> Array | None:
    kind = loop.kind
    if kind.group_size is None:
        return None
    groups = _groups(loop, i, number, code)
    if kind.group_out > 1:  # blocks are [out_blocks, in_blocks], and groups [groups, out]
        groups = groups._replace(group=jax.lax.div(groups.output, kind.group_out), output=groups.group)
    scales = kind.widen_scales(_load_group(loop.refs.scales, loop, groups))[:, None]
    if kind.has_row_groups:
        scales = scales * _load_row_scales(loop, i, kind.group_size, ceil_div(loop.num_in, kind.group_size))
    return scales


def _load_row_scales(loop: Loop, i, group_size: int, num_groups: int) -> Array:
    """[1, right]"""
    operands, shape = loop.operands, loop.shape
    group = jax.lax.div(loop.position(i) + operands.right_part * shape.part_inputs, group_size)
    inside = (group < num_groups) & (operands.x_row < shape.call.rows)
    return plt.load(loop.refs.row_scales.at[group, operands.x_row], mask=inside, other=0)[None, :]
