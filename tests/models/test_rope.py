"""Rotary embedding against formulations of its own: complex numbers, and Llama 3.1's rule by wavelength."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.models.config import LinearRopeScaling, Llama3RopeScaling, RopeConfig
from jinfer.models.rope import rope_angles, rope_frequencies

LLAMA_31 = (Llama3RopeScaling(8.0, 1.0, 4.0, 8192), 500000.0, 128)
SMALL = (Llama3RopeScaling(8.0, 1.0, 4.0, 32), 10000.0, 16)
LLAMA_32 = (Llama3RopeScaling(32.0, 1.0, 4.0, 8192), 500000.0, 64)


def by_wavelength(frequency: float, scaling: Llama3RopeScaling) -> tuple[str, float]:
    """The band of one frequency and what becomes of it, in the words of the Llama 3.1 release: one number at a time."""
    wavelength = 2 * math.pi / frequency
    shortest_stretched = scaling.original_max_position_embeddings / scaling.low_freq_factor
    longest_kept = scaling.original_max_position_embeddings / scaling.high_freq_factor
    if wavelength < longest_kept:
        return "kept", frequency
    if wavelength > shortest_stretched:
        return "stretched", frequency / scaling.factor
    smooth = scaling.original_max_position_embeddings / wavelength - scaling.low_freq_factor
    smooth /= scaling.high_freq_factor - scaling.low_freq_factor
    return "blended", (1 - smooth) * frequency / scaling.factor + smooth * frequency


def plain(theta: float, head_dim: int) -> list[float]:
    return [1 / theta ** (2 * i / head_dim) for i in range(head_dim // 2)]


def test_frequencies_without_scaling() -> None:
    np.testing.assert_allclose(rope_frequencies(RopeConfig(10000.0), 8), [1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_linear_scaling_divides_positions() -> None:
    scaled = rope_frequencies(RopeConfig(10000.0, LinearRopeScaling(4.0)), 16)
    np.testing.assert_allclose(scaled, np.array(plain(10000.0, 16)) / 4, rtol=1e-6)


@pytest.mark.parametrize(("scaling", "theta", "head_dim"), [LLAMA_31, LLAMA_32, SMALL])
def test_llama3_scaling_by_wavelength(scaling: Llama3RopeScaling, theta: float, head_dim: int) -> None:
    bands, expected = zip(*(by_wavelength(f, scaling) for f in plain(theta, head_dim)), strict=True)
    assert set(bands) == {"kept", "blended", "stretched"}
    np.testing.assert_allclose(rope_frequencies(RopeConfig(theta, scaling), head_dim), expected, rtol=1e-6)


def test_angles_are_positions_times_frequencies() -> None:
    """Also far into the context, where a float32 product of 40,000 still knows the angle to a hundredth."""
    positions, frequencies = np.array([0, 1, 7, 40_000], np.int32), rope_frequencies(RopeConfig(10000.0), 8)
    cos, sin = rope_angles(frequencies, jnp.asarray(positions))
    turn = np.exp(1j * positions[:, None] * frequencies.astype(np.float64))
    np.testing.assert_allclose(cos, turn.real, atol=4e-3)
    np.testing.assert_allclose(sin, turn.imag, atol=4e-3)
    np.testing.assert_allclose(cos[:3], turn.real[:3], atol=1e-6)
