"""Rotary position embedding (Su et al., "RoFormer", 2021): the angles by which pairs of a head's dimensions
are turned."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from jinfer.models.rope_config import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    ProportionalRope,
    RopeConfig,
    YarnRopeScaling,
)
from jinfer.models.rope_scaling import dynamic_slowdown, llama3_frequencies, yarn_frequencies

Frequencies = Float32[np.ndarray, " half"] | Float32[Array, "tokens half"]
"""Radians per position of each pair of dimensions: of all tokens alike, or of each token."""
Angles = tuple[Float32[Array, "tokens half"], Float32[Array, "tokens half"]]
"""Cosine and sine of each token's angles, times the model's attention factor."""


def rope_frequencies(config: RopeConfig, rotary_dim: int) -> Float32[np.ndarray, " half"]:
    """Radians per position of each pair of dimensions: theta ** (-2i / rotary_dim), scaled as the model asks.

    `rotary_dim` is the number of dimensions of a head that are turned. Frequencies that depend on the
    sequence's length are those within the original context.
    """
    frequencies = _unscaled(config.theta, rotary_dim)
    match config.scaling:
        case LinearRopeScaling(factor):
            frequencies = frequencies / factor
        case YarnRopeScaling():
            frequencies = yarn_frequencies(frequencies, config.theta, config.scaling)
        case LongRopeScaling():
            frequencies = frequencies / np.array(config.scaling.short_factors)
        case ProportionalRope(share):
            frequencies = np.where(np.arange(rotary_dim // 2) < int(share * rotary_dim // 2), frequencies, 0)
        case Llama3RopeScaling():
            frequencies = llama3_frequencies(frequencies, config.scaling)
    return frequencies.astype(np.float32)


def token_frequencies(
    config: RopeConfig,
    rotary_dim: int,
    positions: Int32[Array, " tokens"],
    prompt_lengths: Int32[Array, " tokens"] | None,
) -> Frequencies:
    """The frequencies of each token, where they depend on more than the model: on the sequence's length when
    the token was computed, which is its prompt's length, or position + 1 after the prompt. `prompt_lengths`
    are needed there only.
    """
    frequencies = rope_frequencies(config, rotary_dim)
    if not config.depends_on_length:
        return frequencies
    assert prompt_lengths is not None, "the frequencies of this model depend on the prompt's length"
    lengths = jnp.maximum(prompt_lengths, positions + 1)[:, None]
    match config.scaling:
        case LongRopeScaling(original_max_position_embeddings=original, long_factors=factors):
            long = (_unscaled(config.theta, rotary_dim) / np.array(factors)).astype(np.float32)
            return jnp.where(lengths > original, long, frequencies)
        case DynamicRopeScaling():
            return frequencies * dynamic_slowdown(config.scaling, rotary_dim, lengths)
    raise AssertionError("unreachable")


def rope_angles(
    frequencies: Frequencies, positions: Int32[Array, " tokens"], attention_factor: float = 1.0
) -> Angles:
    """Pair i of a head's dimensions at `positions` is turned by frequencies[i] a position, and made longer by
    `attention_factor`."""
    angles = positions[:, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if attention_factor == 1.0 else (cos * attention_factor, sin * attention_factor)


def _unscaled(theta: float, rotary_dim: int) -> np.ndarray:
    """The frequencies in float64: theta ** (-2i / rotary_dim)."""
    return theta ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
