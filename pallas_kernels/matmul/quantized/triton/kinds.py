"""The kinds of weights that the kernel reads: how their bytes lie, and what they become."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int4Weight, Int8Weight, QuantizedWeight
from pallas_kernels.core.weights.fp8 import BLOCK_SIZE
from pallas_kernels.core.weights.int4 import HALF
from pallas_kernels.matmul.quantized.triton.widen import (
    as_they_are,
    widen_fp8,
    widen_int4,
    widen_int8,
    widen_to_float16,
)

BFLOAT16, FLOAT16, FLOAT32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16), jnp.dtype(jnp.float32)


@dataclass(frozen=True)
class Kind:
    """A byte holds `num_codes` weights, `HALF` inputs apart, that `widen` makes floats of, or integers.

    Sums in `acc_dtype` of products with activations of `x_dtype`; those of `group_size` inputs and
    `group_out` outputs share a scale that is applied to them in the loop, and None is one scale for all
    inputs, at the end. `has_row_groups` says that activations have scales of the same groups.
    """

    name: str
    widen: Callable[..., list[Array]]
    x_dtype: jnp.dtype
    acc_dtype: jnp.dtype = FLOAT32
    num_codes: int = 1
    group_size: int | None = None
    group_out: int = 1
    has_zeros: bool = False
    has_row_groups: bool = False

    @classmethod
    def of(cls, w: QuantizedWeight) -> "Kind":
        return KINDS[type(w)](w)

    def input_of(self, position):
        """The input of the first code of a byte at this position among an output's; the second's is `HALF`
        later."""
        return position if self.num_codes == 1 else position + jax.lax.div(position, HALF) * HALF

    @property
    def has_row_scales(self) -> bool:
        """True where each row has one scale, at the end."""
        return self.x_dtype != BFLOAT16 and not self.has_row_groups


def _int8(w: Int8Weight) -> Kind:
    if w.activations != "float":
        return Kind("int8-int8", as_they_are, jnp.dtype(jnp.int8), jnp.dtype(jnp.int32))
    group_size = w.group_size if w.group_size < w.num_in else None
    return Kind("int8", widen_int8, BFLOAT16, group_size=group_size, has_zeros=w.zeros is not None)


def _fp8(w: Fp8Weight) -> Kind:
    if w.activations != "float":
        return Kind("fp8-fp8", widen_to_float16, FLOAT16)
    return Kind("fp8", widen_fp8, BFLOAT16)


def _block_fp8(w: BlockFp8Weight) -> Kind:
    kind = Kind("block-fp8", widen_fp8, BFLOAT16, group_size=BLOCK_SIZE, group_out=BLOCK_SIZE)
    if w.activations == "float":
        return kind
    return replace(kind, name="block-fp8-fp8", widen=widen_to_float16, x_dtype=FLOAT16, has_row_groups=True)


def _int4(w: Int4Weight) -> Kind:
    group_size = w.group_size if w.group_size < w.num_in else None
    kind = Kind("int4", widen_int4, BFLOAT16, num_codes=2, group_size=group_size)
    return replace(kind, has_zeros=w.packed_zeros is not None)


KINDS: dict[type, Callable[..., Kind]] = {
    Int8Weight: _int8,
    Fp8Weight: _fp8,
    BlockFp8Weight: _block_fp8,
    Int4Weight: _int4,
}
