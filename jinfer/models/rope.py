"""Rotary position embedding (Su et al., "RoFormer", 2021), in the half-split layout of Hugging Face checkpoints."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from jinfer.models.config import LinearRopeScaling, Llama3RopeScaling, RopeConfig


def rope_frequencies(config: RopeConfig, head_dim: int) -> Float32[np.ndarray, " half"]:
    """Radians per position of each pair of dimensions: theta ** (-2i / head_dim), scaled as the model asks."""
    frequencies = config.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    match config.scaling:
        case LinearRopeScaling(factor):
            frequencies = frequencies / factor
        case Llama3RopeScaling():
            frequencies = _llama3(frequencies, config.scaling)
    return frequencies.astype(np.float32)


def _llama3(frequencies: np.ndarray, scaling: Llama3RopeScaling) -> np.ndarray:
    """Wavelengths over original context / low_freq_factor are stretched, those under context / high_freq_factor kept.

    Between them the two are blended linearly in (context / wavelength).
    """
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)  # within the original context
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(blend, 0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


Angles = tuple[Float32[Array, "tokens half"], Float32[Array, "tokens half"]]
"""Cosine and sine of each token's angles."""


def rope_angles(frequencies: Float32[np.ndarray, " half"], positions: Int32[Array, " tokens"]) -> Angles:
    """Dimensions i and i + head_dim / 2 of a head at `positions` are turned together, by frequencies[i] a position."""
    angles = positions[:, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)
