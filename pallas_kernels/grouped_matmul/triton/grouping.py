"""The kernel that finds blocks of rows of one group.

A program places a piece of the rows: it counts the rows of each group in all pieces and in those before its
own, from which the places follow without another program's results. So one kernel is enough; where there are
many pieces, XLA counts each one first.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div, next_power_of_two, triton_call
from pallas_kernels.grouped_matmul.groups import RowGroups, max_blocks

PIECE = 128  # rows
MAX_COUNTED_PIECES = 16  # by each program itself
NUM_WARPS = 8


@dataclass(frozen=True)
class GroupingShape:
    """The facts of a call that the kernel is compiled for."""

    num_rows: int
    num_groups: int
    block_rows: int

    @property
    def num_pieces(self) -> int:
        return ceil_div(self.num_rows, PIECE)

    @property
    def num_blocks(self) -> int:
        return max_blocks(self.num_rows, self.num_groups, self.block_rows)

    @property
    def piece_blocks(self) -> int:
        """The blocks that a program says the groups of."""
        return next_power_of_two(ceil_div(self.num_blocks, self.num_pieces))

    @property
    def padded_groups(self) -> int:
        return next_power_of_two(self.num_groups)


def group_rows(group_ids: Array, num_groups: int, block_rows: int, *, interpret: bool) -> RowGroups:
    """See `pallas_kernels.grouped_matmul.group_rows`."""
    shape = GroupingShape(group_ids.shape[0], num_groups, block_rows)
    group_of_block, sizes, row_ids = _run(group_ids.astype(jnp.int32), shape=shape, interpret=interpret)
    return RowGroups(group_of_block, sizes, row_ids, shape.num_rows, block_rows)


@functools.partial(jax.jit, static_argnames=("shape", "interpret"))
def _run(group_ids: Array, *, shape: GroupingShape, interpret: bool):
    operands = [group_ids]
    if shape.num_pieces > MAX_COUNTED_PIECES:
        operands.append(_counts(group_ids, shape))
    blocks = jax.ShapeDtypeStruct((shape.num_blocks,), jnp.int32)
    places = jax.ShapeDtypeStruct((shape.num_blocks * shape.block_rows,), jnp.int32)
    return triton_call(
        functools.partial(_kernel, shape=shape),
        *operands,
        out_shape=[blocks, blocks, places],
        grid=(shape.num_pieces,),
        num_warps=NUM_WARPS,
        num_stages=1,
        interpret=interpret,
        name="group_rows",
    )


def _counts(group_ids: Array, shape: GroupingShape) -> Array:
    """The rows of each piece in each group, [pieces, groups]."""
    padding = shape.num_pieces * PIECE - shape.num_rows
    pieces = jnp.pad(group_ids, (0, padding), constant_values=-1).reshape(shape.num_pieces, PIECE)
    return (pieces[:, :, None] == jnp.arange(shape.num_groups)).sum(1, dtype=jnp.int32)


def _kernel(ids_ref, *refs, shape: GroupingShape):
    *counts_refs, group_ref, size_ref, row_ref = refs
    piece = pl.program_id(0)
    group = jnp.arange(shape.padded_groups)

    def add(i, sums):
        count = _count_of(ids_ref, counts_refs, i, group, shape)
        return sums[0] + count, sums[1] + jnp.where(i < piece, count, 0)

    zeros = jnp.zeros_like(group), jnp.zeros_like(group)
    totals, before = jax.lax.fori_loop(0, shape.num_pieces, add, zeros)
    blocks = jax.lax.div(totals + shape.block_rows - 1, shape.block_rows)
    ends = jnp.cumsum(blocks)
    starts = ends - blocks
    _store_rows(ids_ref, row_ref, piece, group, starts * shape.block_rows + before, shape)
    _store_blocks(group_ref, size_ref, piece, group, totals, starts, ends, shape)


def _count_of(ids_ref, counts_refs, piece, group: Array, shape: GroupingShape) -> Array:
    """The rows of a piece in each group."""
    if counts_refs:
        return plt.load(counts_refs[0].at[piece, group], mask=group < shape.num_groups, other=0)
    _, ids = _load_ids(ids_ref, piece, shape)
    is_mine = (ids[:, None] == group[None, :]) & (group < shape.num_groups)[None, :]
    return is_mine.astype(jnp.int32).sum(0)


def _load_ids(ids_ref, piece, shape: GroupingShape) -> tuple[Array, Array]:
    """The rows of a piece and their groups; -1 for what is no row."""
    row = piece * PIECE + jnp.arange(PIECE)
    return row, plt.load(ids_ref.at[row], mask=row < shape.num_rows, other=-1)


def _store_rows(ids_ref, row_ref, piece, group: Array, firsts: Array, shape: GroupingShape) -> None:
    """The rows of this piece at their places; `firsts` are those of its first row of each group."""
    row, ids = _load_ids(ids_ref, piece, shape)
    first = jnp.where(ids[:, None] == group[None, :], firsts[None, :], 0).sum(1)
    is_earlier = (ids[:, None] == ids[None, :]) & (row[:, None] > row[None, :])
    place = first + is_earlier.astype(jnp.int32).sum(1)
    is_row = (ids >= 0) & (ids < shape.num_groups)
    # Behind the end, each at an address of its own, where nothing is stored.
    place = jnp.where(is_row, place, shape.num_blocks * shape.block_rows + row)
    plt.store(row_ref.at[place], row, mask=is_row)


def _store_blocks(
    group_ref, size_ref, piece, group: Array, totals: Array, starts: Array, ends: Array, shape: GroupingShape
) -> None:
    """The group and the size of this program's share of the blocks."""
    block = piece * shape.piece_blocks + jnp.arange(shape.piece_blocks)
    is_mine = (block[:, None] >= starts[None, :]) & (block[:, None] < ends[None, :])
    of_block = jnp.where(is_mine, group[None, :], 0).sum(1)
    left = totals[None, :] - (block[:, None] - starts[None, :]) * shape.block_rows
    size = jnp.where(is_mine, jnp.minimum(left, shape.block_rows), 0).sum(1)
    is_block = block < shape.num_blocks
    plt.store(group_ref.at[block], of_block, mask=is_block)
    plt.store(size_ref.at[block], size, mask=is_block)
