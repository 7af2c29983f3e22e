"""What kernels that work row by row share: rows cut into powers of two, and programs that take blocks of rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.device import target_device
from pallas_kernels.rms_norm.columns import Columns
from pallas_kernels.rms_norm.tuning import MAX_FEATURES, Blocks
from pallas_kernels.selection import UnsupportedError
from pallas_kernels.triton_call import ceil_div

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Rows:
    """Rows `index` of matrices that are each read or written once. `inside` says which of them exist; None for all."""

    index: Array
    inside: Array | None
    eviction_policy: str | None

    def load(self, ref, columns: Columns, *, outside: float = 0) -> Array:
        """ref[rows, columns], with `outside` where there is none."""
        mask = self._mask(columns)
        other = None if mask is None else outside
        return plt.load(ref.at[self._block(columns)], mask=mask, other=other, eviction_policy=self.eviction_policy)

    def store(self, ref, columns: Columns, values: Array) -> None:
        """ref[rows, columns] = values, rounded to ref's dtype."""
        rounded, mask = values.astype(ref.dtype), self._mask(columns)
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
    """Which of the columns exist; None for all."""
    return None if columns.num_inside == columns.size else jnp.arange(columns.size) < columns.num_inside


def load_vector(ref, columns: Columns, block_rows: int) -> Array:
    """ref[columns], and zero outside, as [block_rows, columns].

    Loaded as one row, each element would reach one thread, and the others through shared memory behind a barrier. Like
    this every thread loads what it needs, and the compiler drops the loads that repeat each other.
    """
    shape, inside = (block_rows, columns.size), is_inside(columns)
    column = jnp.broadcast_to(column_index(columns)[None, :], shape)
    mask = None if inside is None else jnp.broadcast_to(inside[None, :], shape)
    return plt.load(ref.at[column], mask=mask, other=None if mask is None else 0)


def num_programs(num_rows: int, blocks: Blocks) -> int:
    """As many programs as blocks of rows, or at most so many that loop over them."""
    num_blocks = ceil_div(num_rows, blocks.rows)
    if blocks.loop_programs is None:
        return num_blocks
    return min(num_blocks, blocks.loop_programs * target_device().num_multiprocessors)


def check_features(features: int) -> None:
    """Raises UnsupportedError for rows that are longer than a program can hold."""
    if features > MAX_FEATURES:
        raise UnsupportedError(
            f"{features} features: a program holds a whole row, of at most {MAX_FEATURES}; "
            "use implementation='reference'"
        )


def for_each_block(
    num_rows: int, blocks: Blocks, load: Callable[[Rows], Loaded], finish: Callable[[Rows, Loaded], None]
) -> None:
    """finish(rows, load(rows)) for each of this program's blocks of rows, which are `num_programs` apart.

    Where there are several, a block's loads are in flight while the block before it is computed.
    """
    programs = num_programs(num_rows, blocks)
    num_blocks = ceil_div(num_rows, blocks.rows)
    eviction_policy = "evict_first" if blocks.evict_first else None

    def rows(block, needs_mask: bool) -> Rows:
        index = block * blocks.rows + jnp.arange(blocks.rows)
        return Rows(index, index < num_rows if needs_mask else None, eviction_policy)

    first = pl.program_id(0)
    if programs == num_blocks:
        block = rows(first, needs_mask=num_rows % blocks.rows != 0)
        finish(block, load(block))
        return

    def one_block(i, loaded):
        block = first + i * programs
        following = load(rows(block + programs, needs_mask=True))
        finish(rows(block, needs_mask=True), loaded)
        return following

    jax.lax.fori_loop(0, ceil_div(num_blocks, programs), one_block, load(rows(first, needs_mask=True)))
