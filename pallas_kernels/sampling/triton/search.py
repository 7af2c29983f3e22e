"""Thresholds of floats, found in their bits: exact, and without sorting.

Digits of two bits are found from the highest down, by measuring what three thresholds keep. A search ends as
soon as at most one element lies between what is known to be kept and what is known to be dropped.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

FLOAT32_BITS = 32
DIGIT_BITS = 2
ONE_ELEMENT = 1.5  # less than two, with room for the rounding of sums

Measure = Callable[[Sequence[Array]], list[Array]]


def bits_of(x: Array) -> Array:
    """Bits of numbers from 0, in their order."""
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def number_of(bits: Array) -> Array:
    """The inverse of `bits_of`."""
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def ordered_bits(x: Array) -> Array:
    """Bits of any numbers, in their order: the sign bit is flipped, and negative numbers are reversed."""
    bits = bits_of(x)
    sign = jnp.uint32(1 << (FLOAT32_BITS - 1))
    return jnp.where(bits >= sign, ~bits, bits | sign)


def number_of_ordered(ordered: Array) -> Array:
    """The inverse of `ordered_bits`."""
    sign = jnp.uint32(1 << (FLOAT32_BITS - 1))
    return number_of(jnp.where(ordered >= sign, ordered ^ sign, ~ordered))


def largest_threshold(
    measure: Measure,
    target: Array,
    low: Array,
    high: Array,
    *,
    least: Callable[[Array], Array] | None = None,
    last_bit: int = 0,
) -> Array:
    """The largest t from low to high (uint32) whose measure reaches the target, above 0; low, where none
    above it does.

    `measure` of several thresholds falls as a threshold grows, by at least `least(t)` for every element at or
    above t that it then leaves out. Bits below `last_bit` stay as they are in low, and t is then too small by
    as much.
    """

    span = high - low

    def unfinished(carry):
        bit, above_low, kept, dropped = carry
        is_open = bit >= last_bit
        return (
            is_open if least is None else is_open & (kept - dropped >= ONE_ELEMENT * least(low + above_low))
        )

    def one_digit(carry):
        bit, found, kept, dropped = carry
        tried = [found + (jnp.uint32(digit) << bit.astype(jnp.uint32)) for digit in range(1, 1 << DIGIT_BITS)]
        for above_low, measured in zip(tried, measure([low + t for t in tried]), strict=True):
            measured = jnp.where(above_low <= span, measured, 0)  # low + t may not fit into 32 bits
            holds = measured >= target
            found, kept = jnp.where(holds, above_low, found), jnp.where(holds, measured, kept)
            dropped = jnp.where(holds, dropped, jnp.maximum(dropped, measured))
        return bit - DIGIT_BITS, found, kept, dropped

    num_bits = FLOAT32_BITS - jax.lax.clz(jax.lax.bitcast_convert_type(span, jnp.int32))
    first_bit = ((num_bits + 1) & -DIGIT_BITS) - DIGIT_BITS
    start = first_bit, jnp.uint32(0), jnp.float32(jnp.inf), jnp.float32(0)
    return low + jax.lax.while_loop(unfinished, one_digit, start)[1]
