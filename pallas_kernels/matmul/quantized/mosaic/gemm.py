"""Products of many rows in eight bits in Pallas on Mosaic GPU, for Hopper: the loop over tiles."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.stacked import layer_index_operand
from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int8Weight
from pallas_kernels.matmul.quantized.mosaic.scaling import BlockScales, OuterScales, Scaling
from pallas_kernels.matmul.quantized.mosaic.tiles import (
    INPUTS,
    LOADING_REGISTERS,
    NUM_WARPGROUPS,
    STORED_COLUMNS,
    GemmBlocks,
    Grid,
    Tile,
    for_each_tile,
    swizzled,
)
from pallas_kernels.matmul.quantized.mosaic.tuning import gemm_blocks
from pallas_kernels.quantize import QuantizedRows

EightBitWeight = Int8Weight | Fp8Weight | BlockFp8Weight


def multiply(
    rows: QuantizedRows,
    w: EightBitWeight,
    *,
    layer: int | Array | None = None,
    blocks: GemmBlocks | None = None,
    interpret: object = None,
) -> Array:
    """rows @ w[layer] in bfloat16, with the scales of both. `interpret` is Mosaic's own kind of
    parameters."""
    num_rows = rows.values.shape[0]
    is_blocked = isinstance(w, BlockFp8Weight)
    blocks = blocks or gemm_blocks(num_rows, w.num_out, is_blocked=is_blocked)
    missing = -num_rows % blocks.rows
    values = jnp.pad(rows.values, ((0, missing), (0, 0)))
    row_scales = jnp.pad(rows.scales, ((0, 0), (0, missing)))
    if is_blocked:
        scaling: Scaling = BlockScales()
        scales = w.scales.reshape(-1, w.scales.shape[-1])
    else:
        sums_dtype = jnp.dtype(jnp.int32 if isinstance(w, Int8Weight) else jnp.float32)
        scaling, row_scales, scales = OuterScales(sums_dtype), row_scales[0], w.scales.reshape(-1)
    weights = w.values.reshape(-1, w.num_in)  # of all layers: a slice would be a copy
    y = _call(
        values,
        weights,
        row_scales,
        scales.astype(jnp.float32),
        layer_index_operand(0 if layer is None else layer),
        num_out=w.num_out,
        scaling=scaling,
        blocks=blocks,
        interpret=interpret,
    )
    return y[:num_rows]


@functools.partial(jax.jit, static_argnames=("num_out", "scaling", "blocks", "interpret"))
def _call(
    x: Array,
    w: Array,
    row_scales: Array,
    scales: Array,
    layer: Array,
    *,
    num_out: int,
    scaling: Scaling,
    blocks: GemmBlocks,
    interpret: object,
) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    grid = Grid.of(x.shape[0], num_out, x.shape[1], blocks)
    num_programs = min(grid.rows * grid.columns, target_device().num_multiprocessors)
    kernel = plgpu.kernel(
        functools.partial(_kernel, scaling=scaling, grid=grid, blocks=blocks),
        out_type=jax.ShapeDtypeStruct((x.shape[0], num_out), jnp.bfloat16),
        scratch_types=[
            plgpu.SMEM(
                (NUM_WARPGROUPS, 2, blocks.tile_rows, STORED_COLUMNS),
                jnp.bfloat16,
                transforms=swizzled(STORED_COLUMNS),
            )
        ],
        grid=(num_programs,),
        grid_names=("program",),
        num_threads=NUM_WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup
        ),
        interpret=interpret,
    )
    return kernel(x, w, row_scales, scales, layer)


def _kernel(
    x, w, row_scales, scales, layer, out, stored, *, scaling: Scaling, grid: Grid, blocks: GemmBlocks
):
    """A program takes tiles one after another, and all of them share the pipeline's memory."""
    operands = scaling.operands(x, w, row_scales)

    def nothing(*_, **__):
        return None

    allocations = _pipeline(nothing, nothing, scaling, grid, blocks).get_allocations(*operands)

    @functools.partial(pl.run_scoped, allocations=allocations, collective_axes="warpgroup")
    def _(allocations):
        warpgroup = lax.axis_index("warpgroup")
        first_output = layer[0] * out.shape[1]

        def multiply_tile(index, state=None):
            tile = Tile.of(index, warpgroup, first_output, grid, blocks)

            def compute(run):
                y = scaling.product(run, row_scales, scales, tile, blocks)
                _store(y.astype(jnp.bfloat16), out, stored, warpgroup, tile, blocks)

            def step(indices, *tiles_and_sums):
                return scaling.step(indices, *tiles_and_sums, scales=scales, tile=tile, blocks=blocks)

            operands_of_tile = scaling.operands_of_tile(x, w, row_scales, tile)
            run_pipeline = _pipeline(step, compute, scaling, grid, blocks, state)
            run_pipeline(*operands_of_tile, allocations=allocations)

        for_each_tile(multiply_tile, grid, blocks)

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _pipeline(
    step: Callable, compute: Callable, scaling: Scaling, grid: Grid, blocks: GemmBlocks, state=None
):
    def of_rows(num_rows: int) -> plgpu.BlockSpec:
        return plgpu.BlockSpec(
            (num_rows, INPUTS),
            lambda i: (0, i),
            transforms=swizzled(INPUTS),
            memory_space=plgpu.SMEM,
        )

    return plgpu.emit_pipeline_warp_specialized(
        step,
        grid=(grid.steps,),
        memory_registers=LOADING_REGISTERS,
        in_specs=[of_rows(blocks.rows), of_rows(blocks.tile_columns), *scaling.further_specs(blocks)],
        wg_axis="warpgroup",
        num_compute_wgs=NUM_WARPGROUPS,
        max_concurrent_steps=min(blocks.num_stages, grid.steps),
        compute_context=compute,
        pipeline_state=state,
    )


def _store(y: Array, out, stored, warpgroup, tile: Tile, blocks: GemmBlocks) -> None:
    """Writes a warpgroup's results, some columns at a time, from two places in turn."""
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    for part in range(blocks.tile_columns // STORED_COLUMNS):
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        first = part * STORED_COLUMNS
        place = stored.at[warpgroup, part % 2]
        place[...] = y[:, first : first + STORED_COLUMNS]
        plgpu.commit_smem()
        target = out.at[tile.rows, tile.columns].at[tile.mine].at[:, pl.ds(first, STORED_COLUMNS)]
        plgpu.copy_smem_to_gmem(place, target)
