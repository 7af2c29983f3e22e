"""The product of each head in Pallas on Triton: programs over blocks of tokens, blocks of outputs and heads.
Those that read the same rows differ in the tokens alone, and run side by side."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.precision import full_precision
from pallas_kernels.core.stacked import layer_index_operand, load_layer_index
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.head_matmul.tuning import HeadMatmulBlocks, HeadMatmulCall, head_matmul_blocks


def head_matmul(
    x: Array,
    weight: Array,
    *,
    layer: int | Array,
    rows: tuple[int, int],
    transposed: bool,
    blocks: HeadMatmulBlocks | None = None,
    interpret: bool,
) -> Array:
    """See the package for the contract."""
    num_rows, columns = rows[1] - rows[0], weight.shape[2]
    num_inputs, num_outputs = (columns, num_rows) if transposed else (num_rows, columns)
    if blocks is None:
        facts = *x.shape[:2], num_inputs, num_outputs, int(transposed), x.dtype.itemsize
        blocks = head_matmul_blocks(HeadMatmulCall(*facts))
    statics = {"first_row": rows[0], "transposed": transposed, "blocks": blocks, "interpret": interpret}
    sizes = num_inputs, num_outputs
    return _run(x, weight, layer_index_operand(layer), sizes=sizes, **statics)


@functools.partial(jax.jit, static_argnames=("sizes", "first_row", "transposed", "blocks", "interpret"))
def _run(
    x: Array,
    weight: Array,
    layer: Array,
    *,
    sizes: tuple[int, int],
    first_row: int,
    transposed: bool,
    blocks: HeadMatmulBlocks,
    interpret: bool,
) -> Array:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    num_tokens, num_heads, _ = x.shape
    (out,) = triton_call(
        functools.partial(_kernel, sizes=sizes, first_row=first_row, transposed=transposed, blocks=blocks),
        *(x, weight, layer),
        out_shape=[jax.ShapeDtypeStruct((num_tokens, num_heads, sizes[1]), x.dtype)],
        grid=(ceil_div(num_tokens, blocks.tokens), ceil_div(sizes[1], blocks.outputs), num_heads),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=interpret,
        name="head_matmul",
    )
    return out


def _kernel(
    x_ref,
    weight_ref,
    layer_ref,
    out_ref,
    *,
    sizes: tuple[int, int],
    first_row: int,
    transposed: bool,
    blocks: HeadMatmulBlocks,
):
    (num_inputs, num_outputs), (num_tokens, num_heads, _) = sizes, x_ref.shape
    head, layer = pl.program_id(2), load_layer_index(layer_ref)
    token = (pl.program_id(0) * blocks.tokens + jnp.arange(blocks.tokens))[:, None]
    output = (pl.program_id(1) * blocks.outputs + jnp.arange(blocks.outputs))[None, :]
    first = head * (weight_ref.shape[1] // num_heads) + first_row

    def accumulate(i, total):
        inputs = i * blocks.inputs + jnp.arange(blocks.inputs)
        x = _load(
            x_ref, (token, head, inputs[None, :]), (token < num_tokens) & (inputs < num_inputs)[None, :]
        )
        inside = (inputs < num_inputs)[:, None] & (output < num_outputs)
        if transposed:
            w = _load(weight_ref, (layer, first + output.T, inputs[None, :]), inside.T).T
        else:
            w = _load(weight_ref, (layer, first + inputs[:, None], output), inside)
        return total + plt.dot(x, w, precision=full_precision(x.dtype))

    start = jnp.zeros((blocks.tokens, blocks.outputs), jnp.float32)
    total = jax.lax.fori_loop(0, ceil_div(num_inputs, blocks.inputs), accumulate, start)
    inside = (token < num_tokens) & (output < num_outputs)
    token, output = jnp.broadcast_arrays(token, output)
    plt.store(out_ref.at[token, head, output], total.astype(out_ref.dtype), mask=inside)


def _load(ref, index, mask: Array) -> Array:
    """ref[index], and zero where the mask is not."""
    return plt.load(ref.at[index], mask=jnp.broadcast_to(mask, mask.shape), other=0)
