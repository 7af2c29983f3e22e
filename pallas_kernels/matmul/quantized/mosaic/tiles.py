"""The tiles of a product in eight bits, and the grid of them that the multiprocessors share.

A program has three warpgroups: two multiply, each `tile_rows` rows of a tile of twice as many, and one copies
tiles of both sides to shared memory, `num_stages` ahead. The last tile's results are on their way to memory
while the next is multiplied.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

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
    visited before the next row of them."""

    tile_rows: int
    tile_columns: int
    num_stages: int
    band: int = 8

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
