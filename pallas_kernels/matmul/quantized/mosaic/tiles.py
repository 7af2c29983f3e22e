"""The tiles of a product in eight bits, and the grid of them that the multiprocessors share.

A program has three warpgroups: two multiply, each `tile_rows` rows of a tile of twice as many, and one copies
tiles of both sides to shared memory, `num_stages` ahead. The last tile's results are on their way to memory
while the next is multiplied.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.core.triton_call import ceil_div

NUM_WARPGROUPS = 2  # that multiply
INPUTS = 128  # of a tile: the bytes of a swizzled row
STORED_COLUMNS = 64  # of results that are written at a time: as many bytes in bfloat16
LOADING_REGISTERS = 40


@dataclass(frozen=True)
class GemmBlocks:
    """Rows that a warpgroup multiplies, columns of a tile, stages, and the tiles side by side that are
    visited before the next row of them.

    `is_seamless` lets the copies of a program's next tile begin while the results of the last are written.
    """

    tile_rows: int
    tile_columns: int
    num_stages: int
    band: int = 8
    is_seamless: bool = False

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return NUM_WARPGROUPS * self.tile_rows


class Grid(NamedTuple):
    """Tiles by rows and columns, and the steps over inputs that each takes."""

    rows: int
    columns: int
    steps: int

    @classmethod
    def of(cls, num_rows: int, num_out: int, num_in: int, blocks: GemmBlocks) -> "Grid":
        return cls(ceil_div(num_rows, blocks.rows), ceil_div(num_out, blocks.tile_columns), num_in // INPUTS)


def swizzled(row_elements: int) -> tuple[plgpu.TilingTransform, plgpu.SwizzleTransform]:
    """The layout in shared memory that tensor cores read, for rows of 128 bytes."""
    return plgpu.TilingTransform((8, row_elements)), plgpu.SwizzleTransform(128)


class Tile(NamedTuple):
    """The slices of a tile's rows and columns, of its outputs among those of all layers, and of a warpgroup's
    rows within the tile (`mine`) and within all rows."""

    rows: Any
    columns: Any
    outputs: Any
    mine: Any
    my_rows: Any

    @classmethod
    def of(cls, index, warpgroup, first_output, grid: Grid, blocks: GemmBlocks) -> "Tile":
        """The tile that has this number in an order in which neighbours share rows or columns."""
        row, column = plgpu.planar_snake(index, (grid.rows, grid.columns), 1, blocks.band)
        first = row * blocks.rows
        first_column = column * blocks.tile_columns
        mine = warpgroup * blocks.tile_rows
        return cls(
            pl.ds(first, blocks.rows),
            pl.ds(first_column, blocks.tile_columns),
            pl.ds(first_output + first_column, blocks.tile_columns),
            pl.ds(mine, blocks.tile_rows),
            pl.ds(first + mine, blocks.tile_rows),
        )


def for_each_tile(multiply: Callable, grid: Grid, blocks: GemmBlocks) -> None:
    """Calls multiply(index, state) for each tile of this program.

    Without seams the pipeline goes on from one tile to the next: the first, the last and the others have a
    state each, which must be known when they are compiled, so that there are three copies of the code. It
    takes several tiles of every program, and tiles of a whole number of rounds through the stages.
    """
    num_tiles = grid.rows * grid.columns

    @plgpu.nd_loop((num_tiles,), collective_axes="program")
    def _(info):
        is_possible = grid.steps % blocks.num_stages == 0 and num_tiles >= 2 * lax.axis_size("program")
        if not (blocks.is_seamless and is_possible):
            multiply(info.index[0])
            return
        is_first, is_last = info.local_index == 0, info.local_index == info.num_local_steps - 1
        for state, is_here in (
            (plgpu.PipelinePipeline.START, is_first),
            (plgpu.PipelinePipeline.STEADY, ~is_first & ~is_last),
            (plgpu.PipelinePipeline.STOP, is_last),
        ):
            pl.when(is_here)(functools.partial(multiply, info.index[0], state))
