"""Eight and four bits become floats in registers, a few instructions for several at a time.

In bfloat16 the numbers 128 to 255 are a fixed pattern and seven bits, so that codes are put into the pattern
and what it adds is subtracted again, exactly. Interpreted, all of this is a cast. Zeros come as a list of
[out], one for each code of a byte.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.weights.four_bits import CODES_OF_A_WORD
from pallas_kernels.core.weights.mxfp4 import MANTISSA_BITS

# Four bytes lie in a register. The low halves of two others take two of them each.
SPREAD = "prmt.b32 a, $2, 0, 0x4140; prmt.b32 b, $2, 0, 0x4342;"
# (x & mask) | 128.0: seven bits, or four of them, as the numbers 128 to 255.
INTO_PATTERN = "lop3.b32 {to}, {x}, {mask}, 0x43004300, 0xea;"
ALL_BUT_SIGN, SIGN, FOUR_BITS = "0x007f007f", "0x00800080", "0x000f000f"
PATTERN = 128  # what the pattern adds
MIDDLE = 8  # the code of zero in four bits
SIGN_PLACE, MAGNITUDE_PLACE = 12, 6  # of e2m1 in bfloat16, from the lowest bit of a code on
SUBNORMAL_SCALE = 0x00400000  # 2 ** -127 in float32


def widen_int8(values: Array, zeros: list[Array] | None, *, interpret: bool) -> list[Array]:
    """values - zeros in bfloat16. 128 + the lower bits less 128 or, where the sign is set, 256."""
    if interpret:
        wide = values.astype(jnp.bfloat16)
    else:
        halves = (("$0", "a"), ("$1", "b"))
        steps = [
            INTO_PATTERN.format(to="c", x=x, mask=ALL_BUT_SIGN)
            + INTO_PATTERN.format(to="d", x=x, mask=SIGN)
            + f"sub.rn.bf16x2 {out}, c, d;"
            for out, x in halves
        ]
        assembly = f"{{ .reg .b32 a, b, c, d; {SPREAD}{''.join(steps)} }}"
        wide = _assembled(assembly, [values], pack=4)
    return [wide if zeros is None else wide - _spread(zeros[0].astype(jnp.bfloat16), values)]


def widen_int4(packed: Array, zeros: list[Array] | None, *, interpret: bool) -> list[Array]:
    """codes - zeros in bfloat16, of each four bits of words of 16. The pattern and the zero are subtracted at
    once."""
    return [
        _widen_code(packed, code, None if zeros is None else zeros[code], interpret)
        for code in range(CODES_OF_A_WORD)
    ]


def _widen_code(packed: Array, code: int, zeros: Array | None, interpret: bool) -> Array:
    if interpret:
        codes = jax.lax.shift_right_logical(packed, jnp.uint16(4 * code)) & jnp.uint16(15)
        middle = MIDDLE if zeros is None else zeros.astype(jnp.bfloat16)[:, None]
        return codes.astype(jnp.bfloat16) - middle
    shift = f"shr.u32 a, $1, {4 * code};" if code else "mov.b32 a, $1;"
    into_pattern = INTO_PATTERN.format(to="c", x="a", mask=FOUR_BITS)
    begin = f"{{ .reg .b32 a, c, m; mov.b32 m, 0x43084308; {shift} {into_pattern}"
    subtrahend = "m" if zeros is None else "$2"
    raised = [] if zeros is None else [_spread(zeros.astype(jnp.bfloat16) + PATTERN, packed)]
    return _assembled(f"{begin} sub.rn.bf16x2 $0, c, {subtrahend}; }}", [packed, *raised], pack=2)


def widen_mxfp4(packed: Array, zeros: None, *, interpret: bool) -> list[Array]:
    """e2m1 in bfloat16, of each four bits of words of 16. Its exponent and mantissa, put where bfloat16 has
    the lowest bits of its own, are the number times 2 ** -126, also where both are subnormal."""
    return [_widen_e2m1(packed, code, interpret) for code in range(CODES_OF_A_WORD)]


def _widen_e2m1(packed: Array, code: int, interpret: bool) -> Array:
    if interpret:
        bits = jax.lax.shift_right_logical(packed, jnp.uint16(4 * code)).astype(jnp.int32)
        magnitude = bits & 7
        twice = jnp.where(magnitude < 2, magnitude, ((2 | (magnitude & 1)) << (magnitude >> 1)) >> 1)
        return jnp.where(bits & 8 == 0, twice, -twice).astype(jnp.bfloat16) / 2
    begin = "{ .reg .b32 a, b, c, m; mov.b32 m, 0x7e807e80;"
    sign = f"{_shifted('a', SIGN_PLACE - 4 * code)} and.b32 a, a, 0x80008000;"
    magnitude_bits = f"{_shifted('b', MAGNITUDE_PLACE - 4 * code)} lop3.b32 c, b, 0x01c001c0, a, 0xea;"
    return _assembled(f"{begin} {sign} {magnitude_bits} mul.rn.bf16x2 $0, c, m; }}", [packed], pack=2)


def _shifted(to: str, places: int) -> str:
    """The instruction that shifts the words to the left, or to the right where negative."""
    return f"shl.b32 {to}, $1, {places};" if places >= 0 else f"shr.u32 {to}, $1, {-places};"


def widen_e8m0(scales: Array) -> Array:
    """2 ** (scale - 127) in float32, whose exponent the byte is; infinite where it is 255, a NaN."""
    bits = jnp.maximum(jax.lax.shift_left(scales.astype(jnp.int32), MANTISSA_BITS), SUBNORMAL_SCALE)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def widen_float_scales(scales: Array) -> Array:
    """Scales of any float in float32."""
    return scales.astype(jnp.float32)


def widen_fp8(values: Array, zeros: None, *, interpret: bool) -> list[Array]:
    """values in bfloat16, by way of float16: an instruction makes two of those, and three more two
    bfloat16."""
    return [values.astype(jnp.float16).astype(jnp.float32).astype(jnp.bfloat16)]


def widen_to_float16(values: Array, zeros: None, *, interpret: bool) -> list[Array]:
    """values of fp8 in float16, which holds them all: one instruction for two."""
    return [values.astype(jnp.float16)]


def as_they_are(values: Array, zeros: None, *, interpret: bool) -> list[Array]:
    """Integers, which tensor cores multiply."""
    return [values]


def _spread(of_outputs: Array, tile: Array) -> Array:
    """[out] -> [out, bytes]"""
    return jnp.broadcast_to(of_outputs[:, None], tile.shape)


def _assembled(assembly: str, operands: Sequence[Array], *, pack: int) -> Array:
    """bfloat16, two in a register of the result, of `pack` elements of each operand."""
    of_operand = [max(1, pack * operand.dtype.itemsize // 4) for operand in operands]
    registers = ["=r"] * (pack // 2) + ["r"] * sum(of_operand)
    (result,) = plt.elementwise_inline_asm(
        assembly,
        args=list(operands),
        constraints=",".join(registers),
        pack=pack,
        result_shape_dtypes=[jax.ShapeDtypeStruct(operands[0].shape, jnp.bfloat16)],
    )
    return result
