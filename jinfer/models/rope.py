"""Rotary position embedding (Su et al., "RoFormer", 2021), in the half-split layout of Hugging Face
checkpoints."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from jinfer.models.rope_config import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    RopeConfig,
    YarnRopeScaling,
)

Frequencies = Float32[np.ndarray, " half"] | Float32[Array, "tokens half"]
"""Radians per position of each pair of dimensions: of all tokens alike, or of each token."""
Angles = tuple[Float32[Array, "tokens half"], Float32[Array, "tokens half"]]
"""Cosine and sine of each token's angles, times the model's attention factor."""


def rope_frequencies(config: RopeConfig, head_dim: int) -> Float32[np.ndarray, " half"]:
    """Radians per position of each pair of dimensions: theta ** (-2i / head_dim), scaled as the model asks.

    Where they depend on the sequence's length, they are those within the original context.
    """
    frequencies = _unscaled(config.theta, head_dim)
    match config.scaling:
        case LinearRopeScaling(factor):
            frequencies = frequencies / factor
        case YarnRopeScaling():
            frequencies = _yarn(frequencies, config.theta, config.scaling)
        case LongRopeScaling():
            frequencies = frequencies / np.array(config.scaling.short_factors)
        case Llama3RopeScaling():
            frequencies = _llama3(frequencies, config.scaling)
    return frequencies.astype(np.float32)


def token_frequencies(
    config: RopeConfig,
    head_dim: int,
    positions: Int32[Array, " tokens"],
    prompt_lengths: Int32[Array, " tokens"] | None,
) -> Frequencies:
    """The frequencies of each token, where they depend on more than the model: on the sequence's length when
    the token was computed, which is its prompt's length, or position + 1 behind the prompt. `prompt_lengths`
    are needed there only.
    """
    frequencies = rope_frequencies(config, head_dim)
    if not config.depends_on_length:
        return frequencies
    assert prompt_lengths is not None, "the frequencies of this model depend on the prompt's length"
    lengths = jnp.maximum(prompt_lengths, positions + 1)[:, None]
    match config.scaling:
        case LongRopeScaling(original_max_position_embeddings=original, long_factors=factors):
            long = (_unscaled(config.theta, head_dim) / np.array(factors)).astype(np.float32)
            return jnp.where(lengths > original, long, frequencies)
        case DynamicRopeScaling():
            return frequencies * _dynamic_slowdown(config.scaling, head_dim, lengths)
    raise AssertionError("unreachable")


def rope_angles(
    frequencies: Frequencies, positions: Int32[Array, " tokens"], attention_factor: float = 1.0
) -> Angles:
    """Dimensions i and i + head_dim / 2 of a head at `positions` are turned together, by frequencies[i] a
    position, and made longer by `attention_factor`."""
    angles = positions[:, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if attention_factor == 1.0 else (cos * attention_factor, sin * attention_factor)


def _unscaled(theta: float, head_dim: int) -> np.ndarray:
    """The frequencies in float64: theta ** (-2i / head_dim)."""
    return theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _dynamic_slowdown(
    scaling: DynamicRopeScaling, head_dim: int, lengths: Int32[Array, "tokens 1"]
) -> Float32[Array, "tokens half"]:
    """The factor of frequencies in sequences of `lengths`, as theta grows by (factor * length /
    original - (factor - 1)) ** (head_dim / (head_dim - 2)): 1 within the original context, and for the
    highest frequency."""
    original = scaling.original_max_position_embeddings
    excess = jnp.maximum(lengths - original, 0).astype(jnp.float32) / original
    exponents = (np.arange(0, head_dim, 2) / (head_dim - 2)).astype(np.float32)
    return jnp.exp(-exponents * jnp.log1p(scaling.factor * excess))


def _yarn(frequencies: np.ndarray, theta: float, scaling: YarnRopeScaling) -> np.ndarray:
    """Pairs up to that which turns `beta_fast` times in the original context are kept, those from that which
    turns `beta_slow` times on are divided by the factor; between them the two are blended linearly in the
    pair's number."""
    head_dim = 2 * len(frequencies)

    def pair_that_turns(times: float) -> float:
        per_turn = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return head_dim * math.log(per_turn) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001  # a step, where the band has no width
    divided = np.clip((np.arange(len(frequencies)) - first) / width, 0, 1)
    return divided * frequencies / scaling.factor + (1 - divided) * frequencies


def _llama3(frequencies: np.ndarray, scaling: Llama3RopeScaling) -> np.ndarray:
    """Wavelengths over original context / low_freq_factor are stretched, those under context /
    high_freq_factor kept.

    Between them the two are blended linearly in (context / wavelength).
    """
    # Within the original context.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(blend, 0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor
