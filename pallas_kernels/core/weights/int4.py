"""Integers of four bits, with a scale for each group of an output's inputs."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, UInt8, UInt16, UInt32

from pallas_kernels.core.weights.activations import STATIC
from pallas_kernels.core.weights.four_bits import FourBits, pack, shifts, unpack
from pallas_kernels.core.weights.scaling import extremes, in_order, largest_magnitudes, spread_groups

LARGEST_CODE = 15
MIDDLE = 8  # the code of zero where there are no zeros
ZEROS_OF_A_WORD = 8
SMALLEST_SCALE = 2.0**-100


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Int4Weight(FourBits):
    """w[permutation[k], o] = (code[o, k] - zeros[g, o]) * scales[g, o] with codes 0 to 15 and g = k //
    group_size.

    `packed` holds codes in the words that `FourBits` describes. No zeros are zeros of 8, and no permutation
    is that of k to k. A word of `packed_zeros` has the zeros of eight groups of an output, the first in the
    lowest bits: kernels load ahead what has four bytes. One for each layer where there is a first axis. AWQ's
    codes and zeros are these; GPTQ's and compressed-tensors' too, once an order of activations ("act-order",
    `g_idx`) has become a permutation that makes its groups lie side by side.
    """

    packed: UInt16[Array, "*layers out words"]
    scales: Float[Array, "*layers groups out"]
    num_in: int = field(metadata=STATIC)
    group_size: int = field(metadata=STATIC)
    packed_zeros: UInt32[Array, "*layers words out"] | None = None
    permutation: Int32[Array, "*layers in"] | None = None

    @classmethod
    def of(
        cls,
        w: Float[Array, "*layers in out"],
        *,
        group_size: int = 128,
        symmetric: bool = True,
        scale_dtype: DTypeLike = jnp.bfloat16,
    ) -> "Int4Weight":
        """Codes nearest to w, for scales that are rounded first: the largest magnitude of a group / 7.5, or
        where not symmetric (largest - least) / 15 with the code of zero in between."""
        turned = w.swapaxes(-1, -2).astype(jnp.float32)
        num_in = turned.shape[-1]
        zeros = None
        if symmetric:
            scales = (largest_magnitudes(turned, group_size) / (LARGEST_CODE / 2)).astype(scale_dtype)
            middle: Array | int = MIDDLE
        else:
            least, largest = extremes(turned, group_size)
            scales = jnp.maximum((largest - least) / LARGEST_CODE, SMALLEST_SCALE).astype(scale_dtype)
            zeros = jnp.clip(jnp.round(-least / scales.astype(jnp.float32)), 0, LARGEST_CODE)
            middle = spread_groups(zeros, group_size, num_in)
            zeros = zeros.astype(jnp.uint8)
        steps = turned / spread_groups(scales.astype(jnp.float32), group_size, num_in)
        codes = jnp.clip(jnp.round(steps) + middle, 0, LARGEST_CODE).astype(jnp.uint8)
        return cls.of_codes(codes, scales, group_size=group_size, zeros=zeros)

    @classmethod
    def of_codes(
        cls,
        codes: UInt8[Array, "*layers out in"],
        scales: Float[Array, "*layers groups out"],
        *,
        group_size: int,
        zeros: UInt8[Array, "*layers groups out"] | None = None,
        permutation: Int32[Array, "*layers in"] | None = None,
    ) -> "Int4Weight":
        """Packs codes of 0 to 15, a byte each, as a checkpoint gives them."""
        packed_zeros = None if zeros is None else pack_zeros(zeros)
        return cls(pack(codes), scales, codes.shape[-1], group_size, packed_zeros, permutation)

    @property
    def zeros(self) -> UInt8[Array, "*layers groups out"] | None:
        """The code of zero of each group; None where all are 8."""
        return None if self.packed_zeros is None else unpack_zeros(self.packed_zeros, self.scales.shape[-2])

    def dequantized(self, dtype: DTypeLike = jnp.float32) -> Float[Array, "*layers in out"]:
        """The array it stands for, computed in float32 and rounded once."""
        codes = unpack(self.packed, self.num_in).astype(jnp.float32)
        zeros: Array | int = MIDDLE
        if self.packed_zeros is not None:
            of_groups = unpack_zeros(self.packed_zeros, self.scales.shape[-2])
            zeros = spread_groups(of_groups.astype(jnp.float32), self.group_size, self.num_in)
        scales = spread_groups(self.scales.astype(jnp.float32), self.group_size, self.num_in)
        return in_order(((codes - zeros) * scales).swapaxes(-1, -2).astype(dtype), self.permutation)


def pack_zeros(zeros: UInt8[Array, "*layers groups out"]) -> UInt32[Array, "*layers words out"]:
    """Eight groups of an output in a word, the first in the lowest four bits."""
    num_groups, num_out = zeros.shape[-2:]
    padding = [(0, 0)] * (zeros.ndim - 2) + [(0, -num_groups % ZEROS_OF_A_WORD), (0, 0)]
    words = jnp.pad(zeros, padding).reshape(*zeros.shape[:-2], -1, ZEROS_OF_A_WORD, num_out)
    return (words.astype(jnp.uint32) << shifts(ZEROS_OF_A_WORD, jnp.uint32)).sum(-2, dtype=jnp.uint32)


def unpack_zeros(
    words: UInt32[Array, "*layers words out"], num_groups: int
) -> UInt8[Array, "*layers groups out"]:
    """The zeros that were packed."""
    zeros = (words[..., None, :] >> shifts(ZEROS_OF_A_WORD, jnp.uint32)) & 15
    return zeros.reshape(*words.shape[:-2], -1, words.shape[-1])[..., :num_groups, :].astype(jnp.uint8)
