"""A program's sums of products with quantized weights, which become floats in registers.

The weights are the left operand, as in the kernel of arrays: there they may come from registers, where their
bytes become floats. The rows of x are the right one, and parts of the inputs lie side by side in a dot.

Scales of groups are applied to the sums of a tile, which are fewer than its weights. They are loaded one tile
ahead by hand: the compiler loads ahead only what a dot reads.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.triton_call import multiply_add
from pallas_kernels.core.widening.kinds import Kind
from pallas_kernels.matmul.quantized.triton.program import (
    Loop,
    load_elements,
    load_scales,
    load_x,
    load_zeros,
)
from pallas_kernels.matmul.triton.dots import over_parts, squares_over_parts
from pallas_kernels.matmul.triton.program import Sums


def quantized_sums(loop: Loop) -> Sums:
    """All rows of x at once."""
    shape, operands = loop.shape, loop.operands
    num_left, num_right = operands.column.size, operands.x_row.size

    def one_tile(i, carry):
        accs, squares, scales = carry
        following = load_scales(loop, i + 1)
        return (*_add_tile(loop, i, accs, squares, scales), following)

    zeros = [jnp.zeros((num_left, num_right), loop.kind.acc_dtype) for _ in range(shape.call.num_matrices)]
    squares = None if shape.epsilon is None else jnp.zeros((num_right, shape.blocks.block_in), jnp.float32)
    start = zeros, squares, load_scales(loop, 0)
    accs, squares, _ = jax.lax.fori_loop(0, shape.part_tiles, one_tile, start)
    matrices = [over_parts(acc, operands, shape).astype(jnp.float32) for acc in accs]
    return Sums(
        row=jnp.arange(matrices[0].shape[0]),
        matrices=matrices,
        squares=None if squares is None else squares_over_parts(squares, shape),
    )


def _add_tile(loop: Loop, i, accs: list[Array], squares, scales: list[list[Array | None]]):
    """The sums with the products of tile i, of one matrix after the other: the floats of one are in
    registers at a time."""
    xs = []
    for code in range(loop.kind.num_codes):
        x, squares = load_x(loop, i, code, squares)
        xs.append(x)
    added = []
    for number, (acc, of_matrix) in enumerate(zip(accs, scales, strict=True)):
        tile = load_elements(loop, i, number)
        codes = loop.kind.widen(tile, load_zeros(loop, i, number), interpret=loop.interpret)
        of_a_group = loop.kind.codes_of_a_group
        for group, factor in enumerate(of_matrix):
            here = slice(group * of_a_group, (group + 1) * of_a_group)
            acc = _add_products(loop, acc, codes[here], xs[here], factor)
        added.append(acc)
    return added, squares


def _add_products(loop: Loop, acc: Array, codes: list[Array], xs: list[Array], factor: Array | None) -> Array:
    """acc + the sum of the products of all codes, times their factor."""
    total = acc if factor is None else None
    for weights, x in zip(codes, xs, strict=True):
        product = _dot(weights, x, loop.kind)
        total = product if total is None else total + product
    assert total is not None
    return total if factor is None else multiply_add(total, factor, acc, interpret=loop.interpret)


def _dot(weights: Array, x: Array, kind: Kind) -> Array:
    return jax.lax.dot_general(weights, x.T, (((1,), (0,)), ((), ())), preferred_element_type=kind.acc_dtype)
