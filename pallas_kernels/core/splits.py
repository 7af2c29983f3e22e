"""Split KV: how a row's positions are divided over programs, and the kernel that merges their partial
results.

Flash-Decoding (Dao et al., 2023). A split's partial result is the unnormalized sum of weighted values, the
maximum score in units of log 2, and the sum of weights relative to that maximum, all in float32. A split
without positions writes nothing and is not read.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.online_softmax import MASKED_SCORE
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two, triton_call

ELEMENTS_PER_THREAD = 32  # of the partial results that a program merges
MAX_WARPS = 16


def tiles_per_split(num_positions, tile: int, num_splits: int):
    """The tiles of one split of a row: the splits share the row's positions, and not the capacity of its page
    table."""
    return ceil_div(ceil_div(num_positions, tile), num_splits)


def split_range(begin, end, *, split, tile: int, num_splits: int):
    """The positions [first, last) of one split of [begin, end); first >= last where the split has none."""
    share = tiles_per_split(end - begin, tile, num_splits) * tile
    first = begin + split * share
    return first, jnp.minimum(first + share, end)


def partial_shapes(rows: int, num_heads: int, *, num_splits: int, dim: int) -> list[jax.ShapeDtypeStruct]:
    """The partial results that `merge_splits` takes: accumulator, maximum and sum."""
    partial = (rows, num_heads, num_splits)
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((*partial, dim), partial, partial)]


def merge_splits(
    acc, top, total, num_positions: Array, *, into: Array | None = None, tile: int, dtype, interpret: bool
) -> Array:
    """Partial results [rows, heads, splits, dim] and [rows, heads, splits] -> [rows, heads, dim] in `dtype`.

    The splits of a row shared its `num_positions` [rows] positions in tiles of `tile`. Rows of 0 positions
    give zeros. With `into` [at least rows, heads, dim], the result is that array, and rows of 0 positions
    keep what it has.
    """
    rows, num_heads, num_splits, dim = acc.shape
    padded_splits = next_power_of_two(num_splits)
    max_columns = MAX_WARPS * 32 * ELEMENTS_PER_THREAD // padded_splits
    columns = min(next_power_of_two(dim), next_power_of_two(max_columns))
    operands = acc, top, total, num_positions, *([] if into is None else [into])
    out_shape = (rows, num_heads, dim) if into is None else into.shape
    (out,) = triton_call(
        functools.partial(_merge_kernel, tile=tile, columns=columns, keeps_empty_rows=into is not None),
        *operands,
        out_shape=[jax.ShapeDtypeStruct(out_shape, dtype)],
        input_output_aliases=None if into is None else {len(operands) - 1: 0},
        grid=(ceil_div(dim, columns), num_heads, rows),
        num_warps=max(1, min(MAX_WARPS, padded_splits * columns // (32 * ELEMENTS_PER_THREAD))),
        num_stages=1,
        interpret=interpret,
        name="merge_splits",
    )
    return out


def _merge_kernel(
    acc_ref, top_ref, total_ref, num_positions_ref, *refs, tile, columns, keeps_empty_rows: bool
):
    out_ref = refs[-1]
    column_block, head, row = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    _, _, num_splits, dim = acc_ref.shape
    split = jnp.arange(next_power_of_two(num_splits))
    column = column_block * columns + jnp.arange(columns)
    num_positions = num_positions_ref[row]
    num_used = ceil_div(
        num_positions, jnp.maximum(tiles_per_split(num_positions, tile, num_splits) * tile, 1)
    )
    used, inside = split < num_used, column < dim
    if keeps_empty_rows:
        inside &= num_positions > 0

    top = plt.load(top_ref.at[row, head, split], mask=used, other=MASKED_SCORE)
    total = plt.load(total_ref.at[row, head, split], mask=used, other=0)
    acc = plt.load(
        acc_ref.at[row, head, split[:, None], column[None, :]], mask=used[:, None] & inside[None, :], other=0
    )
    weight = jnp.exp2(top - top.max(0))
    denominator = (total * weight).sum(0)
    out = (acc * weight[:, None]).sum(0) / jnp.where(denominator == 0, 1, denominator)
    plt.store(out_ref.at[row, head, column], out.astype(out_ref.dtype), mask=inside)
