"""SiLU and multiply in Pallas on Triton.

A program takes so many elements of the result in the order of memory, whatever their row: with rows cut into
powers of two, a hidden size of 1,408 would leave a third of the lanes idle. A division finds the row; since
it is by a constant that vectors divide, the compiler does it once per vector.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core import gating
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.triton_call import LOG2_E, ceil_div, exp2_scaled, triton_call
from pallas_kernels.silu_and_multiply.tuning import SiluBlocks, silu_and_multiply_blocks

# Of the result: the kernel counts them in int32, and the last program counts beyond.
MAX_ELEMENTS = 2**31 - 2**20


def silu_and_multiply(gate_up: Array, *, interpret: bool, blocks: SiluBlocks | None = None) -> Array:
    """See `pallas_kernels.silu_and_multiply.silu_and_multiply`."""
    flat = gate_up.reshape(-1, gate_up.shape[-1])
    num_rows = flat.shape[0]
    hidden = flat.shape[1] // 2
    if num_rows * hidden > MAX_ELEMENTS:
        raise UnsupportedError(
            f"{num_rows} rows of {hidden} elements: the kernel counts to {MAX_ELEMENTS}; use "
            "implementation='reference'"
        )
    blocks = blocks or silu_and_multiply_blocks(num_rows, hidden, gate_up.dtype.itemsize)
    (out,) = triton_call(
        functools.partial(_kernel, blocks=blocks, interpret=interpret),
        flat,
        out_shape=[jax.ShapeDtypeStruct((num_rows, hidden), gate_up.dtype)],
        grid=(ceil_div(num_rows * hidden, blocks.elements),),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="silu_and_multiply",
    )
    return out.reshape(*gate_up.shape[:-1], hidden)


def _kernel(gate_up_ref, out_ref, *, blocks, interpret):
    num_rows, hidden = out_ref.shape
    element = pl.program_id(0) * blocks.elements + jnp.arange(blocks.elements)
    row, column = jax.lax.div(element, hidden), jax.lax.rem(element, hidden)
    is_whole = num_rows * hidden % blocks.elements == 0
    mask, other = (None, None) if is_whole else (element < num_rows * hidden, 0)
    eviction_policy = "evict_first" if blocks.evict_first else None

    def load(column):
        loaded = plt.load(
            gate_up_ref.at[row, column], mask=mask, other=other, eviction_policy=eviction_policy
        )
        return loaded.astype(jnp.float32)

    gate = load(column)
    up = load(hidden + column)
    exponential = exp2_scaled(gate, -LOG2_E, jnp.zeros_like(gate), interpret=interpret)
    out = gating.silu_and_multiply(gate, up, exp_minus_gate=exponential)
    plt.store(out_ref.at[row, column], out.astype(out_ref.dtype), mask=mask, eviction_policy=eviction_policy)
