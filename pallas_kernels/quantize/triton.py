"""Rows in eight bits in Pallas on Triton: each element is read once, and stays in registers until its row's
largest magnitude is known."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.rowwise.blocks import RowBlocks, check_features
from pallas_kernels.core.rowwise.columns import Columns, cut_columns
from pallas_kernels.core.rowwise.rows import ProgramRows, column_index, is_inside, load_vector
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.stacked import layer_index_operand, load_layer_index
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two, round_to_even, triton_call
from pallas_kernels.quantize.contract import SMALLEST_MAGNITUDE, Quantization, QuantizedRows, RowOperands
from pallas_kernels.quantize.tuning import quantize_blocks


def quantize_rows(
    operands: RowOperands,
    layer: int | Array | None,
    how: Quantization,
    *,
    interpret: bool,
    blocks: RowBlocks | None = None,
) -> QuantizedRows:
    """See `pallas_kernels.quantize.quantize_rows`."""
    num_rows, features = operands.x.shape
    check_features(features)
    if how.num_groups(features) > 1 and how.group_size != next_power_of_two(how.group_size):
        raise UnsupportedError(
            f"groups of {how.group_size}: the kernel serves powers of two; use implementation='reference'"
        )
    blocks = blocks or quantize_blocks(num_rows, features, operands.x.dtype.itemsize)
    scale = None if operands.scale is None else operands.scale.reshape(1)
    arrays = operands._replace(scale=scale)._asdict() | {
        "layer": None if layer is None else layer_index_operand(layer)
    }
    present = {name: array for name, array in arrays.items() if array is not None}
    return QuantizedRows(*_call(present, how=how, blocks=blocks, interpret=interpret))


@functools.partial(jax.jit, static_argnames=("how", "blocks", "interpret"))
def _call(operands: dict[str, Array], *, how: Quantization, blocks: RowBlocks, interpret: bool):
    """Jitted, so that all layers of a model share one trace of the kernel."""
    num_rows, features = operands["x"].shape
    values, scales = triton_call(
        functools.partial(_kernel, names=tuple(operands), how=how, blocks=blocks, interpret=interpret),
        *operands.values(),
        out_shape=[
            jax.ShapeDtypeStruct((num_rows, features), how.held_in),
            jax.ShapeDtypeStruct((how.num_groups(features), num_rows), jnp.float32),
        ],
        grid=(ceil_div(num_rows, blocks.rows),),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="quantize_rows",
    )
    return values, scales


def _kernel(*all_refs, names: tuple[str, ...], how: Quantization, blocks: RowBlocks, interpret: bool):
    *operand_refs, values_ref, scales_ref = all_refs
    refs = dict(zip(names, operand_refs, strict=True))
    num_rows, features = values_ref.shape
    rows = ProgramRows.of_program(num_rows, blocks)
    pieces = cut_columns(features, blocks.pieces)
    wide = [rows.load(refs["x"], columns).astype(jnp.float32) for columns in pieces]
    wide = _normalized(refs, wide, pieces, features, how, blocks)
    for columns, x, (factor, scales) in zip(pieces, wide, _scales(refs, wide, features, how), strict=True):
        steps = jnp.clip(x.reshape(*factor.shape[:2], -1) * factor, how.least, how.largest)
        steps = round_to_even(steps, interpret=interpret) if how.dtype == jnp.int8 else steps
        rows.store(values_ref, columns, steps.reshape(x.shape).astype(how.dtype))
        if columns.begin == 0 or how.num_groups(features) > 1:
            _store_scales(scales_ref, rows, columns, scales, how)


def _normalized(
    refs, wide: list[Array], pieces: tuple[Columns, ...], features: int, how: Quantization, blocks: RowBlocks
) -> list[Array]:
    if how.epsilon is None:
        return wide
    mean_square = functools.reduce(jnp.add, [(x * x).sum(1) for x in wide]) / features
    factor = jax.lax.rsqrt(mean_square + how.epsilon)[:, None]
    return [x * factor * _norm_scale(refs, columns, blocks) for x, columns in zip(wide, pieces, strict=True)]


def _norm_scale(refs, columns: Columns, blocks: RowBlocks) -> Array:
    if "layer" not in refs:
        return load_vector(refs["norm_scale"], columns, blocks.rows).astype(jnp.float32)
    shape = blocks.rows, columns.size
    inside = is_inside(columns)
    mask = None if inside is None else jnp.broadcast_to(inside[None, :], shape)
    index = load_layer_index(refs["layer"]), jnp.broadcast_to(column_index(columns)[None, :], shape)
    loaded = plt.load(refs["norm_scale"].at[index], mask=mask, other=None if mask is None else 0)
    return loaded.astype(jnp.float32)


def _scales(refs, wide: list[Array], features: int, how: Quantization) -> list[tuple[Array, Array]]:
    """The factors of each piece, [rows, groups, 1], and its scales [rows, groups]. Where a row is one group,
    all pieces share them."""
    if "scale" in refs:
        scale = jnp.broadcast_to(refs["scale"][jnp.int32(0)], (wide[0].shape[0], 1))
        return [((1 / scale)[:, :, None], scale)] * len(wide)
    if how.num_groups(features) == 1:
        largest = functools.reduce(jnp.maximum, [jnp.abs(x).max(1) for x in wide])[:, None]
        return [_factor_and_scale(largest, how)] * len(wide)
    groups = [x.reshape(x.shape[0], -1, min(how.group_size, x.shape[1])) for x in wide]
    return [_factor_and_scale(jnp.abs(x).max(2), how) for x in groups]


def _factor_and_scale(largest: Array, how: Quantization) -> tuple[Array, Array]:
    largest = jnp.maximum(largest, SMALLEST_MAGNITUDE)
    return (how.largest / largest)[:, :, None], largest / how.largest


def _store_scales(scales_ref, rows: ProgramRows, columns: Columns, scales: Array, how: Quantization) -> None:
    group = columns.begin // how.group_size + jnp.arange(scales.shape[1])
    mask = jnp.broadcast_to((group < scales_ref.shape[0])[None, :], scales.shape)
    if rows.inside is not None:
        mask = mask & rows.inside[:, None]
    plt.store(scales_ref.at[group[None, :], rows.index[:, None]], scales, mask=mask)
