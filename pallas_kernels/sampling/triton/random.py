"""The random numbers of `jax.random.gumbel`, computed where they are used.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) encrypts a
counter, as in jax.random with its "partitionable" layout: element i of an array is the counter i, whose two
encrypted words are xored.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

PARITY = 0x1BD11BDA
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
ONE_BITS = 0x3F800000  # of 1.0 in float32
MANTISSA_BITS = 23
SMALLEST_NORMAL = 2.0**-126
LN_2 = math.log(2)

# -log(1 - v) / v for v in [0, 1/4], lowest power first: the polynomial of least relative error, which is
# 4e-8.
LOG_COEFFICIENTS = (
    0.9999999403953552,
    0.5000104904174805,
    0.3328566551208496,
    0.2577993869781494,
    0.14391519129276276,
    0.33979734778404236,
)
MAX_POLYNOMIAL = 0.25

Key = tuple[Array, Array]  # two uint32


@jax.jit
def fold_in(key: Key, data: Array) -> Key:
    """`jax.random.fold_in` of 32 bits of data. Jitted as `gumbel_noise` is."""
    return threefry(key, jnp.uint32(0), data.astype(jnp.uint32))


def random_bits(key: Key, index: Array) -> Array:
    """Elements `index` of `jax.random.bits(key, (n,))`, which are the same for every n below 2**32."""
    first, second = threefry(key, jnp.uint32(0), index.astype(jnp.uint32))
    return first ^ second


def threefry(key: Key, first: Array, second: Array) -> tuple[Array, Array]:
    """The counter (first, second), encrypted."""
    words = (*key, key[0] ^ key[1] ^ jnp.uint32(PARITY))
    first, second = first + words[0], second + words[1]
    for i in range(5):
        for distance in ROTATIONS[i % 2]:
            first = first + second
            second = _rotated_left(second, distance) ^ first
        first = first + words[(i + 1) % 3]
        second = second + (words[(i + 2) % 3] + jnp.uint32(i + 1))
    return first, second


def _rotated_left(x: Array, distance: int) -> Array:
    return (x << jnp.uint32(distance)) | (x >> jnp.uint32(32 - distance))


@functools.partial(jax.jit, static_argnames="interpret")
def gumbel_noise(key: Key, index: Array, *, interpret: bool) -> Array:
    """Elements `index` of `jax.random.gumbel(key, (n,))`. Jitted so that kernels of all shapes share its
    trace."""
    return gumbel(random_bits(key, index), interpret=interpret)


def gumbel(bits: Array, *, interpret: bool) -> Array:
    """-log(-log(u)) for the u in (0, 1) that `jax.random.uniform` makes of 32 bits, to about 4e-6.

    The logarithm of a GPU is one instruction whose error near 1 is an absolute one: of no use where u is
    close to 1, which is what wins.
    """
    one_to_two = jax.lax.bitcast_convert_type(
        (bits >> jnp.uint32(32 - MANTISSA_BITS)) | jnp.uint32(ONE_BITS), jnp.float32
    )
    u = jnp.maximum(one_to_two - 1, SMALLEST_NORMAL)
    if interpret:
        return -jnp.log(-jnp.log(u))
    rest = 2 - one_to_two
    exponential = jnp.where(rest < MAX_POLYNOMIAL, minus_log_of_one_minus(rest), -log(u, interpret=False))
    return -log(exponential, interpret=False)


def log(x: Array, *, interpret: bool) -> Array:
    """The natural logarithm, on a GPU with the errors of `fast_log2`."""
    return jnp.log(x) if interpret else LN_2 * fast_log2(x)


def minus_log_of_one_minus(v: Array) -> Array:
    """-log(1 - v) for v from 0 to 1/4, to a relative 2e-7."""
    total = jnp.full_like(v, LOG_COEFFICIENTS[-1])
    for coefficient in LOG_COEFFICIENTS[-2::-1]:
        total = total * v + coefficient
    return total * v


def fast_log2(x: Array) -> Array:
    """One instruction: an absolute error of 2**-22 from 1/2 to 2, and a relative one elsewhere."""
    (result,) = plt.elementwise_inline_asm(
        "lg2.approx.ftz.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.float32)],
    )
    return result
