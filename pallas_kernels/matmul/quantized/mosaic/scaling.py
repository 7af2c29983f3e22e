"""Scales of a product in eight bits: of rows and columns, at the end; or of blocks, at every 128 inputs.

Each of the two says which arrays the pipeline copies (`operands`, and those of a tile), by which copies
beside those of x and w; what a step does with its tiles; and what the steps of a tile make (`product`, in
float32).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.matmul.quantized.mosaic.tiles import INPUTS, GemmBlocks, Tile


@dataclass(frozen=True)
class OuterScales:
    """A scale for each row and one for each column: sums of all inputs, in int32 or float32, are scaled at
    the end."""

    sums_dtype: jnp.dtype

    def operands(self, x, w, row_scales) -> tuple:
        return x, w

    def operands_of_tile(self, x, w, row_scales, tile: Tile) -> tuple:
        return x.at[tile.rows, :], w.at[tile.outputs, :]

    def further_specs(self, blocks: GemmBlocks) -> list:
        return []

    def product(self, run, row_scales, scales, tile: Tile, blocks: GemmBlocks) -> Array:
        shape = blocks.tile_rows, blocks.tile_columns

        def scaled(sums) -> Array:
            run(sums)
            by_row = _load(row_scales.at[tile.my_rows], plgpu.Layout.WGMMA.reduce(1))
            by_column = _load(scales.at[tile.outputs], plgpu.Layout.WGMMA.reduce(0))
            y = sums[...].astype(jnp.float32) * lax.broadcast_in_dim(by_row, shape, (0,))
            return y * lax.broadcast_in_dim(by_column, shape, (1,))

        return pl.run_scoped(scaled, plgpu.ACC(shape, self.sums_dtype))

    def step(self, indices, x, w, sums, *, scales, tile: Tile, blocks: GemmBlocks):
        plgpu.wgmma(sums, x.at[tile.mine], w.T)
        plgpu.wgmma_wait(0)
        return sums


@dataclass(frozen=True)
class BlockScales:
    """A scale for each 128 inputs of a row, and for each 128 x 128 weights.

    The sums of 128 inputs leave the tensor cores, which add eight bits in fewer than a float32 has, and are
    scaled and added in registers (DeepSeek-V3's DeepGEMM). A tile has 128 columns: one scale of weights.
    """

    def operands(self, x, w, row_scales) -> tuple:
        return x, w, row_scales

    def operands_of_tile(self, x, w, row_scales, tile: Tile) -> tuple:
        return x.at[tile.rows, :], w.at[tile.outputs, :], row_scales.at[:, tile.rows]

    def further_specs(self, blocks: GemmBlocks) -> list:
        return [plgpu.BlockSpec((1, blocks.rows), lambda i: (i, 0), memory_space=plgpu.SMEM)]

    def product(self, run, row_scales, scales, tile: Tile, blocks: GemmBlocks) -> Array:
        zeros = jnp.zeros((blocks.tile_rows, blocks.tile_columns), jnp.float32)
        return run(plgpu.layout_cast(zeros, plgpu.Layout.WGMMA))

    def step(self, indices, x, w, row_scales, total, *, scales, tile: Tile, blocks: GemmBlocks):
        shape = blocks.tile_rows, blocks.tile_columns

        def product(sums) -> Array:
            plgpu.wgmma(sums, x.at[tile.mine], w.T)
            return sums[...]

        products = pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))
        by_row = _load(row_scales.at[0, tile.mine], plgpu.Layout.WGMMA.reduce(1))
        by_row = by_row * scales[lax.div(tile.outputs.start, INPUTS), indices[0]]
        return total + products * lax.broadcast_in_dim(by_row, shape, (0,))


Scaling = OuterScales | BlockScales


def _load(ref, layout) -> Array:
    load: Any = plgpu.load  # which wants an index in versions of JAX that none of this runs with
    return load(ref, layout=layout, optimized=False)
