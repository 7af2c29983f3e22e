"""Weights in e2m1, with a power of two for each 32 inputs of an output.

The format is MXFP4 of the Open Compute Project's "Microscaling Formats (MX) Specification" 1.0 (2023); see
Rouhani et al., "Microscaling Data Formats for Deep Learning" (2023).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int32, UInt8, UInt16

from pallas_kernels.core.weights.activations import STATIC
from pallas_kernels.core.weights.four_bits import FourBits, pack, unpack
from pallas_kernels.core.weights.scaling import largest_magnitudes, spread_groups

MXFP4_GROUP = 32  # inputs that share a scale
SIGN = 8  # the bit of a code
SCALE_BIAS = 127  # the byte of a scale of 1
NAN_SCALE = 255
LARGEST_EXPONENT = 2  # of a code: 4 and 6
MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # between codes
MANTISSA_BITS, INFINITY, NAN = 23, 0x7F800000, 0x7FC00000  # of float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Mxfp4Weight(FourBits):
    """w[k, o] = e2m1(code[o, k]) * 2 ** (scales[k // 32, o] - 127) with codes 0 to 15.

    Codes 0 to 7 are 0, 0.5, 1, 1.5, 2, 3, 4 and 6, and 8 to 15 the same with a minus: none is out of range.
    `packed` holds them in the words that `FourBits` describes. Scales are bytes of e8m0. A scale of 255 is
    NaN, and 4 * 2 ** 126 and above is infinite; products with either are not finite. One for each layer where
    there is a first axis.
    """

    packed: UInt16[Array, "*layers out words"]
    scales: UInt8[Array, "*layers groups out"]
    num_in: int = field(metadata=STATIC)

    group_size: ClassVar[int] = MXFP4_GROUP

    @classmethod
    def of(cls, w: Float[Array, "*layers in out"]) -> "Mxfp4Weight":
        """Codes nearest to w, the even one of two that are as near. As the specification says, a scale is the
        largest power of two up to the largest magnitude of its group, / 4; what is then above 6 becomes 6."""
        turned = w.swapaxes(-1, -2).astype(jnp.float32)
        # frexp has the fraction in 0.5 to 1, and so an exponent that is higher by 1.
        exponents = jnp.frexp(largest_magnitudes(turned, MXFP4_GROUP))[1] - 1 - LARGEST_EXPONENT
        scales = jnp.clip(exponents, -SCALE_BIAS, SCALE_BIAS)
        steps = jnp.ldexp(turned, -spread_groups(scales, MXFP4_GROUP, turned.shape[-1]))
        return cls.of_codes(_nearest_codes(steps), (scales + SCALE_BIAS).astype(jnp.uint8))

    @classmethod
    def of_codes(
        cls, codes: UInt8[Array, "*layers out in"], scales: UInt8[Array, "*layers groups out"]
    ) -> "Mxfp4Weight":
        """Packs codes of 0 to 15, a byte each."""
        return cls(pack(codes), scales, codes.shape[-1])

    def dequantized(self, dtype: DTypeLike = jnp.float32) -> Float[Array, "*layers in out"]:
        """The array it stands for: exact in float32, subnormal numbers included, and rounded once."""
        codes = unpack(self.packed, self.num_in).astype(jnp.int32)
        scales = spread_groups(self.scales.astype(jnp.int32), MXFP4_GROUP, self.num_in)
        return _values(codes, scales).swapaxes(-1, -2).astype(dtype)


def _nearest_codes(steps: Float32[Array, "*layers out in"]) -> UInt8[Array, "*layers out in"]:
    """One code more for each middle that a magnitude is above; or has reached, if the code above is even."""
    magnitudes = jnp.abs(steps)
    passed = [
        magnitudes >= middle if above % 2 == 0 else magnitudes > middle
        for above, middle in enumerate(MIDDLES, 1)
    ]
    codes = jnp.sum(jnp.stack(passed), axis=0)
    return jnp.where(steps < 0, codes + SIGN, codes).astype(jnp.uint8)


def _values(
    codes: Int32[Array, "*layers out in"], scales: Int32[Array, "*layers out #in"]
) -> Float32[Array, "*layers out in"]:
    """e2m1(code) * 2 ** (scale - 127), put together of its bits: XLA's products on a CPU flush subnormal
    numbers to zero."""
    magnitude = codes & (SIGN - 1)
    # The only bit of a mantissa; 0.5 is 1 of the exponent below, as in float32.
    mantissa = jnp.where(magnitude == 1, 0, magnitude & 1)
    exponent = scales + (magnitude >> 1) - 1
    significand = (2 + mantissa) << (MANTISSA_BITS - 1)
    normal = ((exponent - 1).astype(jnp.uint32) << MANTISSA_BITS) + significand.astype(jnp.uint32)
    subnormal = (significand >> jnp.maximum(1 - exponent, 0)).astype(jnp.uint32)
    bits = jnp.where(exponent > 0, jnp.minimum(normal, INFINITY), subnormal)
    bits = jnp.where(magnitude == 0, 0, bits)
    bits = jnp.where(scales == NAN_SCALE, NAN, bits)
    return jax.lax.bitcast_convert_type(bits | ((codes & SIGN).astype(jnp.uint32) << 28), jnp.float32)
