"""The programs of the grouped product."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.stacked import layer_index_operand
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.core.weights import QuantizedWeight, Weight
from pallas_kernels.core.widening import Kind
from pallas_kernels.grouped_matmul.contract import GroupedFusion
from pallas_kernels.grouped_matmul.groups import RowGroups
from pallas_kernels.grouped_matmul.triton.product import GroupedKernelShape, GroupedRefs, grouped_kernel
from pallas_kernels.grouped_matmul.tuning import GroupedBlocks, GroupedCall, grouped_blocks

MAX_BLOCKS = 65535  # of rows: a grid's second dimension


def grouped_matmul(
    x: Array,
    w: Weight,
    groups: RowGroups,
    *,
    layer: int | Array,
    fusion: GroupedFusion,
    out_dtype: DTypeLike,
    interpret: bool,
    blocks: GroupedBlocks | None = None,
) -> Array:
    """See `pallas_kernels.grouped_matmul.grouped_matmul`."""
    if x.dtype not in (jnp.bfloat16, jnp.float32):
        raise UnsupportedError(f"x in {x.dtype}: the kernel serves bfloat16 and float32; cast it to one")
    if isinstance(w, QuantizedWeight) and x.dtype != jnp.bfloat16:
        raise UnsupportedError(
            f"x in {x.dtype} and w of {type(w).__name__}: the kernel multiplies floats of 16 bits; cast x to "
            "bfloat16"
        )
    if groups.num_blocks > MAX_BLOCKS:
        raise UnsupportedError(
            f"{groups.num_blocks} blocks of rows: a grid has at most {MAX_BLOCKS}; use larger blocks"
        )
    call = GroupedCall.of(x, w, groups, fusion)
    operands = {
        "x": x,
        "w": w.elements if isinstance(w, QuantizedWeight) else w,
        "layer": layer_index_operand(layer),
        "group_of_block": groups.group_of_block,
        "scales": w.scales if isinstance(w, QuantizedWeight) else None,
        "sizes": groups.sizes,
        "row_ids": groups.row_ids,
        "bias": fusion.bias,
        "row_weights": fusion.row_weights,
    }
    shape = GroupedKernelShape(
        call,
        blocks or grouped_blocks(call),
        rows_of_x=groups.num_rows // x.shape[0],
        gate=fusion.gate,
        kind=Kind.of(w) if isinstance(w, QuantizedWeight) else None,
        interpret=interpret,
    )
    present = {name: array for name, array in operands.items() if array is not None}
    return _run(present, shape=shape, out_dtype=jnp.dtype(out_dtype), interpret=interpret)


@functools.partial(jax.jit, static_argnames=("shape", "out_dtype", "interpret"))
def _run(
    operands: dict[str, Array], *, shape: GroupedKernelShape, out_dtype: jnp.dtype, interpret: bool
) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    call, blocks = shape.call, shape.blocks
    (result,) = triton_call(
        functools.partial(_kernel, names=tuple(operands), shape=shape),
        *operands.values(),
        out_shape=[jax.ShapeDtypeStruct((call.rows, call.num_out), out_dtype)],
        grid=(ceil_div(call.num_out, blocks.block_out), operands["group_of_block"].shape[0]),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="grouped_matmul",
    )
    return result


def _kernel(*all_refs, names: tuple[str, ...], shape: GroupedKernelShape):
    *operand_refs, out_ref = all_refs
    grouped_kernel(GroupedRefs(**dict(zip(names, operand_refs, strict=True))), out_ref, shape)
