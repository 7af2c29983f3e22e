"""The programs of the kernel with quantized weights, and the sum of the splits of a block of outputs."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two, triton_call
from pallas_kernels.core.weights import QuantizedWeight
from pallas_kernels.core.widening.kinds import BFLOAT16, Kind
from pallas_kernels.matmul.contract import Fusion, of_layer
from pallas_kernels.matmul.quantized.triton.loop import quantized_sums
from pallas_kernels.matmul.quantized.triton.operands import operands_of
from pallas_kernels.matmul.quantized.triton.program import Loop, QuantizedRefs
from pallas_kernels.matmul.quantized.tuning import QuantizedCall, quantized_blocks
from pallas_kernels.matmul.triton.ends import finish
from pallas_kernels.matmul.triton.program import MatmulKernelShape, MatmulRefs, Sums, column_offsets
from pallas_kernels.matmul.tuning import MatmulBlocks, MatmulCall
from pallas_kernels.rms_norm import rms_norm

MAX_ROWS = 128
MAX_NORM_ROWS = 16  # that every program normalizes; of more, XLA does it once
MAX_GATED_ROWS = 64  # whose sums of a gate and of the others a program holds; of more, XLA multiplies them
MIN_GROUP = 32  # elements of an output in a tile, which share a scale


@dataclass(frozen=True)
class QuantizedProgram:
    """The facts of a call that a kernel is compiled for. Inputs that `shape` counts are elements of an
    output."""

    shape: MatmulKernelShape
    kind: Kind
    num_in: int
    interpret: bool


def matmul(
    x: Array,
    w: QuantizedWeight,
    *,
    layer: int | Array | None,
    transposed: bool,
    fusion: Fusion,
    out_dtype: DTypeLike,
    interpret: bool,
    blocks: MatmulBlocks | None = None,
) -> Array:
    """One program per (block of outputs, split of the inputs). See `pallas_kernels.matmul.matmul`."""
    del transposed  # weights know their layout
    kind = Kind.of(w)
    reason = why_not(x, w)
    if reason is not None:
        raise UnsupportedError(f'the kernel does not serve this call: {reason}; use implementation="xla"')
    if fusion.norm is not None and kind.x_dtype == BFLOAT16 and x.shape[0] > MAX_NORM_ROWS:
        scale = of_layer(fusion.norm[0], layer, ndim=1)
        x = rms_norm(x, scale, epsilon=fusion.norm[1], implementation="xla")
        fusion = fusion._replace(norm=None)
    if fusion.gated and x.shape[0] > MAX_GATED_ROWS:
        halves = matmul(
            x,
            w,
            layer=layer,
            transposed=False,
            fusion=fusion._replace(gated=False, residual=None),
            out_dtype=jnp.float32,
            interpret=interpret,
        )
        ended = finish(jnp.split(halves, 2, axis=-1), None, fusion.residual, fusion.activation)
        return ended.astype(out_dtype)
    call = call_of(x, w, fusion)
    epsilon = fusion.norm[1] if fusion.norm is not None and call.is_normalized else None
    counted = MatmulCall(
        call.rows, call.num_elements, call.num_out, True, call.is_gated, call.is_normalized, itemsize=1
    )
    shape = MatmulKernelShape(counted, blocks or quantized_blocks(call), epsilon, fusion.activation)
    program = QuantizedProgram(shape, kind, w.num_in, interpret)
    operands = operands_of(x, w, kind, layer, fusion, interpret)
    return _run(operands, program=program, out_dtype=jnp.dtype(out_dtype))


def call_of(x: Array, w: QuantizedWeight, fusion: Fusion) -> QuantizedCall:
    kind = Kind.of(w)
    return QuantizedCall(
        kind=kind.name,
        rows=x.shape[0],
        num_elements=w.elements.shape[-1],
        num_out=w.num_out // (2 if fusion.gated else 1),
        element_bytes=kind.element_bytes,
        max_block=kind.max_block,
        is_gated=fusion.gated,
        is_normalized=fusion.norm is not None and kind.x_dtype == BFLOAT16,
    )


def why_not(x: Array, w: QuantizedWeight) -> str | None:
    """The part of a call that the kernel leaves out; None where it serves it."""
    if x.dtype != jnp.bfloat16:
        return f"x is {x.dtype}, and must be bfloat16"
    if x.shape[0] > MAX_ROWS:
        return f"{x.shape[0]} rows, and it serves at most {MAX_ROWS}"
    group = Kind.of(w).group_size
    if group is not None and (group != next_power_of_two(group) or group < MIN_GROUP):
        return f"groups of {group}, and they must be powers of two from {MIN_GROUP} on, or one"
    return None


@functools.partial(jax.jit, static_argnames=("program", "out_dtype"))
def _run(operands: dict[str, Array], *, program: QuantizedProgram, out_dtype: jnp.dtype) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel. The end of a program without
    splits is left to XLA where there are some."""
    shape = program.shape
    if shape.blocks.num_splits == 1:
        return _call(operands, program, out_dtype)
    sums = _call(operands, program, jnp.float32)
    total = functools.reduce(jnp.add, [sums[split] for split in range(shape.blocks.num_splits)])
    factor = None
    if shape.epsilon is not None:
        mean_square = jnp.mean(operands["x"].astype(jnp.float32) ** 2, axis=-1, keepdims=True)
        factor = jax.lax.rsqrt(mean_square + shape.epsilon)
    elif program.kind.has_row_scales:
        factor = operands["row_scales"].T
    matrices = list(total if factor is None else total * factor)
    if "bias" in operands:
        bias = operands["bias"]
        bias = bias if bias.ndim == 1 else bias[operands["layer"][0]]
        halves = bias.astype(jnp.float32).reshape(len(matrices), -1)
        matrices = [values + half for values, half in zip(matrices, halves, strict=True)]
    return finish(matrices, None, operands.get("residual"), shape.activation).astype(out_dtype)


def _call(operands: dict[str, Array], program: QuantizedProgram, dtype: DTypeLike) -> Array:
    """The result, or where there are splits the sums of each, [splits, matrices, rows, out]."""
    call, blocks = program.shape.call, program.shape.blocks
    out = call.rows, call.num_out
    sizes = (blocks.num_splits, call.num_matrices, *out) if blocks.num_splits > 1 else out
    (result,) = triton_call(
        functools.partial(_kernel, names=tuple(operands), program=program),
        *operands.values(),
        out_shape=[jax.ShapeDtypeStruct(sizes, dtype)],
        grid=(ceil_div(call.num_out, blocks.block_out), blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=program.interpret,
        name="matmul_quantized",
    )
    return result


def _kernel(*all_refs, names: tuple[str, ...], program: QuantizedProgram):
    *operand_refs, out_ref = all_refs
    by_name = dict.fromkeys(("layer", "norm_scale", "residual", "zeros", "shifts", "row_scales", "bias"))
    by_name |= dict(zip(names, operand_refs, strict=True))
    product = MatmulRefs(
        by_name["x"], by_name["w"], by_name["layer"], by_name["norm_scale"], by_name["residual"]
    )
    others = {name: by_name[name] for name in ("scales", "zeros", "shifts", "row_scales", "bias")}
    refs = QuantizedRefs(product, **others)
    loop = Loop.of(refs, program.kind, program.shape, program.num_in, program.interpret)
    _store(loop, out_ref, quantized_sums(loop))


def _store(loop: Loop, out_ref, sums: Sums):
    """Rows of partial sums, or of the result."""
    refs, shape = loop.refs, loop.shape
    row, column, inside = sums.indices(column_offsets(shape), shape)
    matrices = sums.matrices
    if loop.kind.group_size is None:
        matrices = [values * _of_outputs(refs.scales, loop, number) for number, values in enumerate(matrices)]
    if shape.blocks.num_splits > 1:
        for number, values in enumerate(matrices):
            plt.store(out_ref.at[(pl.program_id(1), number, row, column)], values, mask=inside)
        return
    factor = _factor(loop, sums)
    if factor is not None:
        matrices = [values * factor for values in matrices]
    if refs.bias is not None:
        matrices = [values + _of_outputs(refs.bias, loop, number) for number, values in enumerate(matrices)]
    residual_ref = refs.product.residual
    residual = None if residual_ref is None else plt.load(residual_ref.at[row, column], mask=inside, other=0)
    result = finish(matrices, None, residual, shape.activation)
    plt.store(out_ref.at[row, column], result.astype(out_ref.dtype), mask=inside)


def _of_outputs(ref, loop: Loop, number: int) -> Array:
    """The scales or the bias of this program's outputs, [1, block_out]."""
    column = column_offsets(loop.shape)
    output = number * loop.shape.call.num_out + column
    index = (*loop.layer, output) if len(ref.shape) == 2 else (output,)
    loaded = plt.load(ref.at[index], mask=column < loop.shape.call.num_out, other=0)
    return loaded.astype(jnp.float32)[None, :]


def _factor(loop: Loop, sums: Sums) -> Array | None:
    """A row's factor [rows, 1]: the norm's, or its scale."""
    if sums.squares is not None and loop.shape.epsilon is not None:
        return jax.lax.rsqrt(sums.squares / loop.num_in + loop.shape.epsilon)
    if not loop.kind.has_row_scales:
        return None
    row = sums.row
    scales = plt.load(loop.refs.row_scales.at[jnp.int32(0), row], mask=row < loop.shape.call.rows, other=0)
    return scales[:, None]
