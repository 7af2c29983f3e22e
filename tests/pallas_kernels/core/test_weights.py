"""What quantized weights stand for: by golden codes, and by how far they are from what they were made of."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int4Weight, Int8Weight, Mxfp4Weight

LAYERS, NUM_IN, NUM_OUT = 2, 300, 200
MAKERS = {
    "int8": (Int8Weight.of, {}, 0.5),
    "int8 of groups": (Int8Weight.of, {"group_size": 64}, 0.5),
    "int4": (Int4Weight.of, {}, 0.5),
    "int4 of 32": (Int4Weight.of, {"group_size": 32}, 0.5),
    "int4 by output": (Int4Weight.of, {"group_size": NUM_IN}, 0.5),
    # Two roundings: the zero's, and the code's.
    "int4 with zeros": (Int4Weight.of, {"group_size": 64, "symmetric": False}, 1.0),
}
FLOATS = {"fp8": Fp8Weight.of, "fp8 of blocks": BlockFp8Weight.of}
ALL = [*(maker[0] for maker in MAKERS.values()), *FLOATS.values(), Mxfp4Weight.of]


def made(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((LAYERS, NUM_IN, NUM_OUT), np.float32)


def steps_of(weight) -> np.ndarray:
    """The scale of each weight, [layers, in, out]."""
    scales = np.asarray(weight.scales, np.float32)
    return scales.repeat(weight.group_size, axis=1)[:, :NUM_IN]


@pytest.mark.parametrize("name", MAKERS)
def test_integers_are_within_half_a_step(rng, name):
    of, options, most_steps = MAKERS[name]
    w = made(rng)
    weight = of(jnp.asarray(w), **options)
    error = np.abs(np.asarray(weight.dequantized()) - w)
    # A hundredth more for int4's scales, which are rounded to bfloat16.
    assert (error <= (most_steps + 0.04) * steps_of(weight)).all()
    assert error.max() > 0.3 * steps_of(weight).min()


@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_within_half_of_their_last_bit(rng, name):
    w = made(rng)
    got = np.asarray(FLOATS[name](jnp.asarray(w)).dequantized())
    # Below 2 ** -6 of a scale's steps floats lie evenly, 2 ** -9 apart.
    smallest = np.abs(w).max() / 448 * 2.0**-10
    assert (np.abs(got - w) <= np.abs(w) / 16 + smallest).all()
    assert np.abs(got - w).max() > 1e-3


@pytest.mark.parametrize("of", ALL)
def test_a_layer_of_a_stack_is_the_matrix(rng, of):
    w = made(rng)
    stack = of(jnp.asarray(w))
    layer = jax.tree.map(lambda leaf: leaf[1], stack)
    assert (stack.shape, layer.shape) == (w.shape, w.shape[1:])
    assert (layer.num_in, layer.num_out, layer.ndim) == (NUM_IN, NUM_OUT, 2)
    np.testing.assert_array_equal(layer.dequantized(), stack.dequantized()[1])
    np.testing.assert_array_equal(layer.dequantized(), of(jnp.asarray(w[1])).dequantized())


@pytest.mark.parametrize("of", [Int8Weight.of, Int4Weight.of, *FLOATS.values(), Mxfp4Weight.of])
def test_zeros_alone_stay_zeros(of):
    np.testing.assert_array_equal(of(jnp.zeros((256, 8))).dequantized(), np.zeros((256, 8)))


def test_a_word_holds_four_inputs_that_are_64_apart():
    codes = np.zeros((1, 300), np.uint8)
    codes[0, [3, 67, 131, 195, 259]] = 5, 9, 14, 1, 7
    weight = Int4Weight.of_codes(jnp.asarray(codes), jnp.ones((3, 1)), group_size=128)
    packed = np.asarray(weight.packed)
    assert (packed.shape, packed.dtype) == ((1, 128), np.uint16)
    assert (packed[0, 3], packed[0, 67]) == (0x1E95, 0x0007)
    np.testing.assert_array_equal(weight.dequantized()[:, 0], codes[0].astype(np.float32) - 8)


def test_zeros_are_subtracted_from_codes_before_the_scale():
    codes = jnp.asarray([[0, 15, 7, 9]], jnp.uint8)
    scales, zeros = jnp.asarray([[2.0], [4.0]]), jnp.asarray([[1], [8]], jnp.uint8)
    weight = Int4Weight.of_codes(codes, scales, group_size=2, zeros=zeros)
    np.testing.assert_array_equal(weight.dequantized()[:, 0], [-2, 28, -4, 4])
    eight = Int8Weight(
        jnp.asarray([[-128, 127, 7, 9]], jnp.int8), scales, 2, jnp.asarray([[1], [-8]], jnp.int8)
    )
    np.testing.assert_array_equal(eight.dequantized()[:, 0], [-258, 252, 60, 68])


def test_a_word_holds_the_zeros_of_eight_groups():
    zeros = jnp.arange(9, dtype=jnp.uint8)[:, None] + 7
    codes = jnp.zeros((1, 18), jnp.uint8)
    weight = Int4Weight.of_codes(codes, jnp.ones((9, 1)), group_size=2, zeros=zeros)
    np.testing.assert_array_equal(weight.packed_zeros, [[0xEDCBA987], [0xF]])
    np.testing.assert_array_equal(weight.zeros, zeros)
    np.testing.assert_array_equal(weight.dequantized()[:, 0], -np.repeat(np.arange(7.0, 16), 2))


@pytest.mark.parametrize("kind", [Int4Weight, Int8Weight])
def test_a_permutation_says_which_input_each_code_multiplies(rng, kind):
    w = made(rng)
    order = np.stack([rng.permutation(NUM_IN) for _ in range(LAYERS)])
    turned = np.take_along_axis(w, order[..., None], axis=1)
    plain = kind.of(jnp.asarray(turned), group_size=64)
    weight = dataclasses.replace(plain, permutation=jnp.asarray(order, jnp.int32))
    back = np.take_along_axis(np.asarray(weight.dequantized()), order[..., None], axis=1)
    np.testing.assert_array_equal(back, plain.dequantized())


def test_a_block_at_the_end_may_be_smaller():
    w = jnp.ones((130, 129)).at[129, 128].set(7.0)
    weight = BlockFp8Weight.of(w)
    assert weight.scales.shape == weight.scales_shape == (2, 2)
    np.testing.assert_allclose(weight.scales * 448, [[1, 1], [1, 7]], rtol=1e-6)
    np.testing.assert_allclose(weight.dequantized(), w, rtol=1e-6)


class TestMxfp4:
    VALUES = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)

    def test_every_code_with_every_scale_is_exact(self):
        """Subnormal numbers and the sign of zero among them; what float32 cannot hold is infinite, and the
        scale 255 is NaN."""
        codes = np.tile(np.arange(16, dtype=np.uint8).repeat(2), (256, 1))
        scales = np.arange(256, dtype=np.uint8)[None]
        got = np.asarray(Mxfp4Weight.of_codes(jnp.asarray(codes), jnp.asarray(scales)).dequantized()).T
        with np.errstate(over="ignore"):
            wanted = np.ldexp(self.VALUES[codes], np.arange(-127, 129)[:, None])
        np.testing.assert_array_equal(got[:255].view(np.uint32), wanted[:255].view(np.uint32))
        assert np.isnan(got[255]).all()
        assert np.isinf(wanted[254]).any()
        assert (np.abs(wanted[0][wanted[0] != 0]) < 2.0**-124).all()

    def test_a_weight_takes_four_bits_and_a_quarter(self):
        weight = Mxfp4Weight.of(jnp.ones((LAYERS, 512, 8)))
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(weight)) * 8 == 4.25 * LAYERS * 512 * 8

    def test_a_word_holds_four_inputs_that_are_64_apart(self):
        codes = np.zeros((1, 256), np.uint8)
        codes[0, [3, 67, 131, 195]] = 5, 9, 14, 1
        scales = jnp.full((8, 1), 127, jnp.uint8).at[6].set(129)
        weight = Mxfp4Weight.of_codes(jnp.asarray(codes), scales)
        assert (weight.packed.shape, weight.packed.dtype, weight.packed[0, 3]) == ((1, 64), np.uint16, 0x1E95)
        wanted = np.zeros(256, np.float32)
        wanted[[3, 67, 131, 195]] = 3, -0.5, -4, 2
        np.testing.assert_array_equal(weight.dequantized()[:, 0], wanted)

    def test_scales_are_powers_of_two_and_codes_the_nearest(self, rng):
        """Scales make the largest of a group at least 4 and below 8; from 6 on it becomes 6. A code in the
        middle of two is the even one, as ml_dtypes rounds."""
        w = rng.standard_normal((LAYERS, NUM_IN, NUM_OUT), np.float32)
        w[:, :32, :2] = np.asarray([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 7.5])[np.arange(32) % 8][:, None]
        weight = Mxfp4Weight.of(jnp.asarray(w))
        filled = np.pad(w, [(0, 0), (0, 20), (0, 0)]).reshape(LAYERS, 10, 32, NUM_OUT)
        exponents = np.floor(np.log2(np.abs(filled).max(2))) - 2
        np.testing.assert_array_equal(weight.scales, exponents + 127)
        scales = np.exp2(exponents).repeat(32, axis=1)[:, :NUM_IN]
        rounded = np.clip(w / scales, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
        np.testing.assert_array_equal(weight.dequantized(), rounded * scales)
