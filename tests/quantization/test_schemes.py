"""Codes and scales of weights, and how they are stored."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jinfer.quantization.schemes import SCHEME_NAMES, Int4Scheme, Int8Scheme, packed_words, scheme_of
from jinfer.weights.rounding import float8_scales, integer_scales, rounded_float8, rounded_integers

BFLOAT16, FLOAT32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)


def some_weights(shape=(6, 64), seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def test_integer_scales_reach_half_a_step_beyond_the_largest_code():
    scales = integer_scales(np.array([[0.5, -7.5], [0, 0]], np.float32), 4, FLOAT32)
    assert scales.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(("bits", "codes"), [(4, [-8, 7, 0, 2, 2, -2]), (8, [-8, 8, 0, 2, 2, -2])])
def test_integers_are_rounded_to_even_ones_and_kept_within_their_bits(bits, codes):
    w = np.array([[-8.2, 7.6, 0.5, 1.5, 2.5, -2.5]], np.float32)
    assert rounded_integers(w, np.ones((1, 1), np.float32), bits).tolist() == [codes]


def test_the_largest_weight_is_the_largest_e4m3_and_never_a_nan():
    w = some_weights()
    codes = rounded_float8(w, float8_scales(w, BFLOAT16)).astype(np.float32)
    assert np.isfinite(codes).all()
    assert np.abs(codes).max(axis=1).tolist() == [448.0] * len(w)


@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_numpy_and_jax_round_alike(name):
    scheme, w = scheme_of(name, 32), some_weights()
    rounded = scheme.rounded(w, BFLOAT16)
    np.testing.assert_array_equal(rounded, np.asarray(scheme.rounded(jnp.asarray(w), BFLOAT16)))
    assert 0 < np.abs(rounded - w).max() < np.abs(w).max() / 8


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_what_is_stored_stands_for_the_rounded_weight(name):
    scheme, w = scheme_of(name, 32), some_weights()
    stored = scheme.quantize(w, BFLOAT16)
    product = stored["weight"].astype(np.float32) * stored["weight_scale"].astype(np.float32)
    np.testing.assert_array_equal(product, scheme.rounded(w, BFLOAT16))
    assert stored["weight_scale"].shape == (6, 1)


def test_each_group_of_four_bits_has_its_own_scale():
    w = some_weights()
    w[:, 32:] *= 100
    stored = Int4Scheme(32).quantize(w, FLOAT32)
    nibbles = (stored["weight_packed"].view(np.uint32)[..., None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
    codes = nibbles.reshape(w.shape).astype(np.float32) - 8
    np.testing.assert_array_equal(
        codes * np.repeat(stored["weight_scale"], 32, axis=1), Int4Scheme(32).rounded(w, FLOAT32)
    )
    assert (np.abs(codes) >= 7).reshape(6, 2, 32).any(axis=2).all()
    assert stored["weight_shape"].tolist() == [6, 64]


def test_the_golden_word():
    assert packed_words(np.arange(-8, 0, dtype=np.int8)[None], 4).view(np.uint32).tolist() == [[0x76543210]]


def test_a_row_that_no_word_ends_is_filled():
    words = packed_words(np.full((2, 9), 7, np.int8), 4)
    assert words.view(np.uint32).tolist() == [[0xFFFFFFFF, 0xF]] * 2


def test_inputs_that_no_group_divides_are_refused_with_both_numbers():
    assert Int4Scheme(128).refusal(172) == "172 inputs are no multiple of the group size 128"
    assert Int4Scheme(128).refusal(256) is None
    assert Int8Scheme().refusal(7) is None
