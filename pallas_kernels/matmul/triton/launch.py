"""The programs of the kernel, and the sum of the splits of a block of outputs."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.stacked import layer_index_operand
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.matmul.contract import Fusion
from pallas_kernels.matmul.triton.dots import dot_sums
from pallas_kernels.matmul.triton.ends import finish
from pallas_kernels.matmul.triton.products import product_sums
from pallas_kernels.matmul.triton.program import MatmulKernelShape, MatmulRefs, Sums, column_offsets
from pallas_kernels.matmul.tuning import MatmulBlocks, MatmulCall, matmul_blocks

MAX_ROWS = 128
MAX_NORM_ROWS = 16  # also of float32; beyond, every program would normalize more than it is worth


def matmul(
    x: Array,
    w: Array,
    *,
    layer: int | Array | None,
    transposed: bool,
    fusion: Fusion,
    out_dtype: DTypeLike,
    interpret: bool,
    blocks: MatmulBlocks | None = None,
) -> Array:
    """One program per (block of outputs, split of the inputs). See `pallas_kernels.matmul.matmul`."""
    call = MatmulCall.of(x, w, transposed, fusion)
    _check(call, fusion, x.dtype)
    blocks = blocks or matmul_blocks(call)
    assert (blocks.dot_parts is None) == (x.dtype == jnp.float32), f"{blocks} cannot compute in {x.dtype}"
    operands = {"x": x, "w": w, "layer": None if layer is None else layer_index_operand(layer)}
    scale, epsilon = fusion.norm or (None, None)
    operands |= {"scale": scale, "residual": fusion.residual}
    shape = MatmulKernelShape(call=call, blocks=blocks, epsilon=epsilon, activation=fusion.activation)
    present = {name: array for name, array in operands.items() if array is not None}
    return _run(present, shape=shape, out_dtype=jnp.dtype(out_dtype), interpret=interpret)


def _check(call: MatmulCall, fusion: Fusion, dtype: jnp.dtype) -> None:
    if fusion.bias is not None:
        raise UnsupportedError('a bias: the kernel adds none; use implementation="xla"')
    if dtype not in (jnp.bfloat16, jnp.float32):
        raise UnsupportedError(
            f"x and w in {dtype}: the kernel serves bfloat16 and float32; cast them or use jnp.dot"
        )
    if call.rows > MAX_ROWS:
        raise UnsupportedError(
            f"{call.rows} rows: the kernel serves at most {MAX_ROWS}; use jnp.dot, which keeps up with the "
            "weights"
        )
    if call.rows > MAX_NORM_ROWS and call.is_normalized:
        raise UnsupportedError(
            f"{call.rows} rows and a norm: the kernel normalizes at most {MAX_NORM_ROWS}; normalize before "
            "the call"
        )
    if call.rows > MAX_NORM_ROWS and dtype == jnp.float32:
        raise UnsupportedError(
            f"{call.rows} rows of float32: the kernel serves at most {MAX_NORM_ROWS} without tensor cores; "
            "use jnp.dot"
        )


@functools.partial(jax.jit, static_argnames=("shape", "out_dtype", "interpret"))
def _run(
    operands: dict[str, Array], *, shape: MatmulKernelShape, out_dtype: jnp.dtype, interpret: bool
) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel.

    The end of a program without splits is left to XLA where there are some: it fuses it with what reads the
    result.
    """
    if shape.blocks.num_splits == 1:
        return _call(operands, shape, out_dtype, interpret)
    sums = _call(operands, shape, jnp.float32, interpret)
    factor = None
    if shape.epsilon is not None:
        mean_square = jnp.mean(operands["x"].astype(jnp.float32) ** 2, axis=-1, keepdims=True)
        factor = jax.lax.rsqrt(mean_square + shape.epsilon)
    # Additions and not a reduction: a reduction would be a kernel by itself.
    total = functools.reduce(jnp.add, [sums[split] for split in range(shape.blocks.num_splits)])
    return finish(list(total), factor, operands.get("residual"), shape.activation).astype(out_dtype)


def _call(operands: dict[str, Array], shape: MatmulKernelShape, dtype: DTypeLike, interpret: bool) -> Array:
    """The result, or where there are splits the sums of each, [splits, matrices, rows, out]."""
    call, blocks = shape.call, shape.blocks
    out = call.rows, call.num_out
    (result,) = triton_call(
        functools.partial(_kernel, names=tuple(operands), shape=shape),
        *operands.values(),
        out_shape=[
            jax.ShapeDtypeStruct(
                (blocks.num_splits, call.num_matrices, *out) if blocks.num_splits > 1 else out, dtype
            )
        ],
        grid=(ceil_div(call.num_out, blocks.block_out), blocks.num_splits),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="matmul",
    )
    return result


def _kernel(*all_refs, names: tuple[str, ...], shape: MatmulKernelShape):
    *operand_refs, out_ref = all_refs
    refs = MatmulRefs(**dict(zip(names, operand_refs, strict=True)))
    compute = product_sums if shape.blocks.dot_parts is None else dot_sums
    for sums in compute(refs, shape):
        _store(refs, out_ref, sums, shape)


def _store(refs: MatmulRefs, out_ref, sums: Sums, shape: MatmulKernelShape):
    """Rows of partial sums, or of the result."""
    column = column_offsets(shape)
    row, column, inside = sums.indices(column, shape)
    if shape.blocks.num_splits > 1:
        for number, values in enumerate(sums.matrices):
            plt.store(out_ref.at[(pl.program_id(1), number, row, column)], values, mask=inside)
        return
    residual = (
        None if refs.residual is None else plt.load(refs.residual.at[row, column], mask=inside, other=0)
    )
    factor = None
    if sums.squares is not None and shape.epsilon is not None:
        factor = jax.lax.rsqrt(sums.squares / shape.call.num_in + shape.epsilon)
    result = finish(sums.matrices, factor, residual, shape.activation)
    plt.store(out_ref.at[row, column], result.astype(out_ref.dtype), mask=inside)
