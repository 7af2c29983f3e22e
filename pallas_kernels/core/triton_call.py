"""The only module that calls Pallas on Triton, so that differences between JAX versions are handled once.

JAX 0.11 and later warn, while lowering, that this backend is deprecated. docs/decisions/0001 says what
follows from the notice; Python's default filters do not show it.
"""

import importlib.util
import struct
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

LOG2_E = 1.4426950408889634  # exp(x) = exp2(x * LOG2_E), and exp2 is one instruction on the GPU
MIN_DOT_SIZE = 16  # Triton's tensor-core dot wants at least 16 in every dimension


def _spare_mlir_a_search(module: str = "jaxlib.mlir.dialects.tt") -> None:
    """Registers an empty Python module for Triton's dialect. Without one, MLIR searches three packages on
    disk for it at each operation that it makes, which took 40% of the time to lower a kernel."""
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        sys.modules[module] = types.ModuleType(module)


_spare_mlir_a_search()


def triton_call(
    kernel: Callable,
    *operands: Any,
    out_shape: Sequence[Any],
    grid: tuple[int, ...],
    num_warps: int,
    num_stages: int,
    interpret: bool,
    name: str,
    input_output_aliases: Mapping[int, int] | None = None,
) -> Sequence[Any]:
    """Runs `kernel` once per point of `grid` with every operand and result left in global memory.

    Operands and results may be pytrees of arrays and of their shapes, such as None or the pages of a cache;
    the kernel gets the same ones of references. The first grid dimension varies fastest: programs that differ
    in it alone run side by side. `input_output_aliases` maps an operand's number to the result that is
    written over it; without a copy where the operand is donated or used nowhere else.

    CompilerParams is always given: without it jax 0.10 takes Mosaic GPU and later versions Triton.
    """
    in_global_memory = pl.BlockSpec(memory_space=pl.ANY)
    arrays, structure = jax.tree.flatten((*operands, *out_shape))
    num_operands = len(jax.tree.leaves(operands))

    def of_references(*refs) -> None:
        kernel(*jax.tree.unflatten(structure, refs))

    call = pl.pallas_call(
        of_references,
        out_shape=arrays[num_operands:],
        grid=grid,
        in_specs=[in_global_memory] * num_operands,
        out_specs=[in_global_memory] * (len(arrays) - num_operands),
        compiler_params=plt.CompilerParams(num_warps=num_warps, num_stages=num_stages),
        input_output_aliases=_aliases(operands, out_shape, input_output_aliases or {}),
        interpret=interpret,
        name=name,
    )
    results = call(*arrays[:num_operands])
    return jax.tree.unflatten(jax.tree.structure(list(out_shape)), results)


def _aliases(operands: Sequence[Any], results: Sequence[Any], by_number: Mapping[int, int]) -> dict[int, int]:
    """The numbers of arrays, from those of the pytrees that they are in."""
    aliases: dict[int, int] = {}
    for operand, result in by_number.items():
        first, over = (len(jax.tree.leaves(trees)) for trees in (operands[:operand], results[:result]))
        size = len(jax.tree.leaves(operands[operand]))
        aliases |= dict(zip(range(first, first + size), range(over, over + size), strict=True))
    return aliases


def load_rows(ref, *index: Any, size: int, padded_size: int) -> Array:
    """ref[*index, :] as [..., padded_size]: rows of `size` elements, padded with zeros to a power of two.

    An index is a scalar or an array; the arrays are one-dimensional and of one length. The code below has a
    branch for rows without padding, which gives the same and is as fast on a GPU as a plain slice.
    """
    if size == padded_size:
        return ref[(*index, slice(None))]
    column = jnp.arange(padded_size)
    spread = [i[:, None] if getattr(i, "ndim", 0) else i for i in index]
    inside = jnp.broadcast_to((column < size)[None, :], (_num_rows(index), padded_size))
    zero = 0.0 if jnp.issubdtype(ref.dtype, jnp.floating) else 0  # no integer is converted to 8 bits of float
    return plt.load(ref.at[(*spread, column[None, :])], mask=inside, other=zero)


def _num_rows(index: tuple[Any, ...]) -> int:
    return next(i.shape[0] for i in index if getattr(i, "ndim", 0))


def exp2_scaled(x: Array, scale: float, shift: Array, *, interpret: bool) -> Array:
    """exp2(x * scale - shift) in float32, for x and shift of one shape; denormal results are flushed to zero.

    These are two instructions on a GPU. XLA compiles the jnp expression to six, since it neither fuses the
    multiplication with the subtraction nor flushes denormal numbers, and in attention the six take as long as
    the matmuls.
    """
    if interpret:
        return jnp.exp2(x * scale - shift)
    (immediate,) = struct.unpack("I", struct.pack("f", scale))
    (result,) = plt.elementwise_inline_asm(
        f"{{ .reg .f32 t; fma.rn.f32 t, $1, 0f{immediate:08X}, $2; ex2.approx.ftz.f32 $0, t; }}",
        args=[x, -shift],
        constraints="=f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.float32)],
    )
    return result


def round_to_even(x: Array, *, interpret: bool) -> Array:
    """jnp.round(x) in float32, which Pallas on Triton has no operation for."""
    if interpret:
        return jnp.round(x)
    (result,) = plt.elementwise_inline_asm(
        "cvt.rni.f32.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.float32)],
    )
    return result


def multiply_add(x: Array, y: Array, z: Array, *, interpret: bool) -> Array:
    """x * y + z in float32, in one instruction and rounded once; XLA's Triton makes two of the expression.
    Shapes are broadcast to that of z."""
    if interpret:
        return x * y + z
    x, y = (jnp.broadcast_to(operand, z.shape) for operand in (x, y))
    (result,) = plt.elementwise_inline_asm(
        "fma.rn.f32 $0, $1, $2, $3;",
        args=[x, y, z],
        constraints="=f,f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(z.shape, jnp.float32)],
    )
    return result


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n (n >= 1)."""
    return 1 << (n - 1).bit_length()


def ceil_div(a, b):
    """a / b rounded up, for Python and traced integers alike."""
    return (a + b - 1) // b
