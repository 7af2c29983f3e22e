"""Rotary embedding against formulations of its own: complex numbers, and each rule one number at a time."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.models.rope import rope_angles, rope_frequencies, token_frequencies
from jinfer.models.rope_config import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    RopeConfig,
    YarnRopeScaling,
)

LLAMA_31 = (Llama3RopeScaling(8.0, 1.0, 4.0, 8192), 500000.0, 128)
SMALL = (Llama3RopeScaling(8.0, 1.0, 4.0, 32), 10000.0, 16)
LLAMA_32 = (Llama3RopeScaling(32.0, 1.0, 4.0, 8192), 500000.0, 64)


def by_wavelength(frequency: float, scaling: Llama3RopeScaling) -> tuple[str, float]:
    """The band of one frequency and what becomes of it, in the words of the Llama 3.1 release: one number at
    a time."""
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


def test_the_attention_factor_makes_cosine_and_sine_longer() -> None:
    positions, frequencies = jnp.array([0, 1, 7], jnp.int32), rope_frequencies(RopeConfig(10000.0), 8)
    for plain_part, longer in zip(
        rope_angles(frequencies, positions), rope_angles(frequencies, positions, 1.25), strict=True
    ):
        np.testing.assert_allclose(longer, 1.25 * plain_part, rtol=1e-6)


def yarn_pair(pair: int, theta: float, head_dim: int, scaling: YarnRopeScaling) -> float:
    """One frequency, by how many pairs from the first that is stretched at all it stands."""

    def pair_of(turns: float) -> float:  # the pair that turns so often within the original context
        return (
            head_dim * math.log(scaling.original_max_position_embeddings / (2 * math.pi * turns), theta) / 2
        )

    first, last = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    frequency = plain(theta, head_dim)[pair]
    if pair <= first:
        return frequency
    if pair >= last:
        return frequency / scaling.factor
    stretched = (pair - first) / (last - first)
    return frequency * (1 - stretched) + frequency / scaling.factor * stretched


@pytest.mark.parametrize(
    ("scaling", "theta", "head_dim"),
    [
        (YarnRopeScaling(4.0, 32768, 1.139), 1e6, 128),
        (YarnRopeScaling(40.0, 4096, 1.0, truncate=False), 10000.0, 64),
        (YarnRopeScaling(8.0, 24, 1.2, beta_fast=4.0, beta_slow=0.5), 10000.0, 16),
    ],
    ids=["Qwen3", "exact band", "short"],
)
def test_yarn_stretches_pair_by_pair(scaling: YarnRopeScaling, theta: float, head_dim: int) -> None:
    expected = [yarn_pair(pair, theta, head_dim, scaling) for pair in range(head_dim // 2)]
    np.testing.assert_allclose(rope_frequencies(RopeConfig(theta, scaling), head_dim), expected, rtol=1e-6)
    shares = np.array(expected) / plain(theta, head_dim)
    assert shares[0] == 1, "the fastest pair is kept"
    assert shares[-1] == pytest.approx(1 / scaling.factor), "the slowest is stretched"
    assert any(1 / scaling.factor * 1.01 < share < 0.99 for share in shares), "there are some between"


def lengths_to_frequencies(config: RopeConfig, head_dim: int, places: list[tuple[int, int]]) -> np.ndarray:
    """Of tokens at (prompt length, position)."""
    prompt_lengths, positions = (jnp.array(x, jnp.int32) for x in zip(*places, strict=True))
    return np.asarray(token_frequencies(config, head_dim, positions, prompt_lengths))


def test_longrope_uses_the_long_factors_for_prompts_and_positions_beyond_the_original_context() -> None:
    short, long = (1.0, 1.5, 2.0, 3.0), (2.0, 4.0, 8.0, 16.0)
    config = RopeConfig(10000.0, LongRopeScaling(4.0, 10, 1.0, short, long))
    places = {(10, 0): short, (10, 9): short, (3, 9): short, (3, 10): long, (11, 0): long, (11, 10): long}
    expected = [np.array(plain(10000.0, 8)) / factors for factors in places.values()]
    np.testing.assert_allclose(lengths_to_frequencies(config, 8, list(places)), expected, rtol=1e-6)


def test_dynamic_theta_grows_with_the_prompt_and_with_the_position_behind_it() -> None:
    factor, original, head_dim, theta = 2.0, 100, 16, 10000.0
    config = RopeConfig(theta, DynamicRopeScaling(factor, original))
    lengths = {(5, 0): 100, (100, 99): 100, (5, 100): 101, (150, 0): 150, (150, 149): 150, (150, 399): 400}
    thetas = [
        theta * (factor * n / original - (factor - 1)) ** (head_dim / (head_dim - 2))
        for n in lengths.values()
    ]
    expected = [plain(grown, head_dim) for grown in thetas]
    np.testing.assert_allclose(lengths_to_frequencies(config, head_dim, list(lengths)), expected, rtol=3e-6)


@pytest.mark.parametrize(
    ("scaling", "classes"),
    [
        (None, [None] * 4),
        (YarnRopeScaling(4.0, 10, 1.0), [None] * 4),
        (LongRopeScaling(4.0, 10, 1.0, (1.0,), (2.0,)), [None, None, 10, 10]),
        (DynamicRopeScaling(4.0, 10), [None, None, 11, 30]),
    ],
)
def test_prompts_whose_keys_are_turned_alike_are_of_one_class(scaling, classes: list[int | None]) -> None:
    config = RopeConfig(10000.0, scaling)
    assert [config.rotation_class(length) for length in (1, 10, 11, 30)] == classes
    assert config.depends_on_length == any(classes)


SHORT_FACTORS, LONG_FACTORS = tuple(map(float, range(1, 65))), tuple(map(float, range(2, 66)))
REAL = {
    "linear": (LinearRopeScaling(4.0), {"factor": 4.0}),
    "yarn": (YarnRopeScaling(4.0, 32768, 0.1 * math.log(4) + 1), {"factor": 4.0}),
    "llama3": (
        Llama3RopeScaling(8.0, 1.0, 4.0, 32768),
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "longrope": (
        LongRopeScaling(4.0, 32768, 1.0, SHORT_FACTORS, LONG_FACTORS),
        {"factor": 4.0, "short_factor": SHORT_FACTORS, "long_factor": LONG_FACTORS, "attention_factor": 1.0},
    ),
    "dynamic": (DynamicRopeScaling(4.0, 32768), {"factor": 4.0}),
}


@pytest.mark.oracle
@pytest.mark.parametrize("kind", REAL)
def test_frequencies_of_a_real_size_are_those_of_transformers(kind: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling, entry = REAL[kind]
    config = transformers.Qwen3Config(
        head_dim=128,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": kind, "rope_theta": 1e6, **entry},
    )
    ours = RopeConfig(1e6, scaling)
    for length in (1, 32768, 32769, 100_000):
        theirs, attention_factor = ROPE_INIT_FUNCTIONS[kind](
            config, device="cpu", seq_len=torch.tensor(length)
        )
        positions = jnp.array([length - 1], jnp.int32)
        mine = np.broadcast_to(token_frequencies(ours, 128, positions, jnp.ones(1, jnp.int32)), (1, 64))
        np.testing.assert_allclose(mine[0], theirs.numpy(), rtol=5e-6)
        assert ours.attention_factor == pytest.approx(attention_factor)
