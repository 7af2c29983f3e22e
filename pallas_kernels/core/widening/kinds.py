"""The kinds of weights that the kernel reads: how their bytes lie, and what they become."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.weights import (
    BlockFp8Weight,
    Fp8Weight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    QuantizedWeight,
)
from pallas_kernels.core.weights.four_bits import CODES_OF_A_WORD, PIECE, SLOT
from pallas_kernels.core.weights.fp8 import BLOCK_SIZE
from pallas_kernels.core.widening.widen import (
    as_they_are,
    widen_e8m0,
    widen_float_scales,
    widen_fp8,
    widen_int4,
    widen_int8,
    widen_mxfp4,
    widen_to_float16,
)

BFLOAT16, FLOAT16, FLOAT32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16), jnp.dtype(jnp.float32)

MAX_BLOCK = 128  # bytes of an output in a tile, a line of the caches


@dataclass(frozen=True)
class Kind:
    """An element holds `num_codes` weights, `SLOT` inputs apart, that `widen` makes floats of, or integers.

    Sums in `acc_dtype` of products with activations of `x_dtype`; those of `group_size` inputs and
    `group_out` outputs share a scale that is applied to them in the loop, and None is one scale for all
    inputs, at the end. `widen_scales` makes float32 of groups' scales. `has_row_groups` says that activations
    have scales of the same groups.
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
    widen_scales: Callable[[Array], Array] = widen_float_scales

    @classmethod
    def of(cls, w: QuantizedWeight) -> "Kind":
        return KINDS[type(w)](w)

    def input_of(self, position):
        """The input of the first code of the element at this position among an output's; the others follow,
        `SLOT` apart."""
        if self.num_codes == 1:
            return position
        return position + jax.lax.div(position, SLOT) * (PIECE - SLOT)

    @property
    def codes_of_a_group(self) -> int:
        """Codes of an element that share a scale and a zero."""
        return (
            self.num_codes
            if self.group_size is None
            else max(1, min(self.group_size // SLOT, self.num_codes))
        )

    @property
    def max_block(self) -> int:
        """Elements of an output in a tile: in one slot of the inputs, and in a group."""
        widest = MAX_BLOCK if self.num_codes == 1 else SLOT
        return widest if self.group_size is None else min(widest, self.group_size)

    @property
    def element_bytes(self) -> int:
        return 1 if self.num_codes == 1 else 2

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
    kind = Kind("int4", widen_int4, BFLOAT16, num_codes=CODES_OF_A_WORD, group_size=group_size)
    return replace(kind, has_zeros=w.packed_zeros is not None)


def _mxfp4(w: Mxfp4Weight) -> Kind:
    return Kind(
        "mxfp4",
        widen_mxfp4,
        BFLOAT16,
        num_codes=CODES_OF_A_WORD,
        group_size=w.group_size,
        widen_scales=widen_e8m0,
    )


KINDS: dict[type, Callable[..., Kind]] = {
    Int8Weight: _int8,
    Fp8Weight: _fp8,
    BlockFp8Weight: _block_fp8,
    Int4Weight: _int4,
    Mxfp4Weight: _mxfp4,
}
