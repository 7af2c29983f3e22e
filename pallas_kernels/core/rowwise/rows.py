"""A program's rows, read and written in pieces of columns."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.rowwise.blocks import RowBlocks
from pallas_kernels.core.rowwise.columns import Columns


@dataclass(frozen=True)
class ProgramRows:
    """Rows `index` of matrices that are each read or written once. `inside` says which of them exist; None
    for all."""

    index: Array
    inside: Array | None
    eviction_policy: str | None

    @classmethod
    def of_program(cls, num_rows: int, blocks: RowBlocks) -> "ProgramRows":
        index = pl.program_id(0) * blocks.rows + jnp.arange(blocks.rows)
        inside = None if num_rows % blocks.rows == 0 else index < num_rows
        return cls(index, inside, "evict_first" if blocks.evict_first else None)

    def load(self, ref, columns: Columns, *, outside: float = 0) -> Array:
        """ref[rows, columns], with `outside` where there is none."""
        mask = self._mask(columns)
        other = None if mask is None else outside
        return plt.load(
            ref.at[self._block(columns)], mask=mask, other=other, eviction_policy=self.eviction_policy
        )

    def store(self, ref, columns: Columns, values: Array) -> None:
        """ref[rows, columns] = values, rounded to ref's dtype."""
        rounded = values.astype(ref.dtype)
        mask = self._mask(columns)
        plt.store(ref.at[self._block(columns)], rounded, mask=mask, eviction_policy=self.eviction_policy)

    def _block(self, columns: Columns) -> tuple[Array, Array]:
        return self.index[:, None], column_index(columns)[None, :]

    def _mask(self, columns: Columns) -> Array | None:
        mask = None if self.inside is None else self.inside[:, None]
        columns_inside = is_inside(columns)
        if columns_inside is not None:
            mask = columns_inside[None, :] if mask is None else mask & columns_inside[None, :]
        return None if mask is None else jnp.broadcast_to(mask, (self.index.size, columns.size))


def column_index(columns: Columns) -> Array:
    return columns.begin + jnp.arange(columns.size)


def is_inside(columns: Columns) -> Array | None:
    """A mask of the columns that exist; None for all."""
    return None if columns.num_inside == columns.size else jnp.arange(columns.size) < columns.num_inside


def load_vector(ref, columns: Columns, block_rows: int) -> Array:
    """ref[columns], and zero outside, as [block_rows, columns].

    Loaded as one row, each element would reach one thread, and the others through shared memory after a
    barrier. Like this every thread loads what it needs, and the compiler drops the loads that repeat each
    other.
    """
    shape = (block_rows, columns.size)
    inside = is_inside(columns)
    column = jnp.broadcast_to(column_index(columns)[None, :], shape)
    mask = None if inside is None else jnp.broadcast_to(inside[None, :], shape)
    return plt.load(ref.at[column], mask=mask, other=None if mask is None else 0)
