"""The mathematics of scaled rotary embeddings, as their papers and transformers 5 give it."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from jinfer.models.rope_config import DynamicRopeScaling, Llama3RopeScaling, YarnRopeScaling


def dynamic_slowdown(
    scaling: DynamicRopeScaling, rotary_dim: int, lengths: Int32[Array, "tokens 1"]
) -> Float32[Array, "tokens half"]:
    """The factor of frequencies in sequences of `lengths`, as theta grows by (factor * length /
    original - (factor - 1)) ** (rotary_dim / (rotary_dim - 2)): 1 within the original context, and for the
    highest frequency."""
    original = scaling.original_max_position_embeddings
    excess = jnp.maximum(lengths - original, 0).astype(jnp.float32) / original
    exponents = (np.arange(0, rotary_dim, 2) / (rotary_dim - 2)).astype(np.float32)
    return jnp.exp(-exponents * jnp.log1p(scaling.factor * excess))


def yarn_frequencies(frequencies: np.ndarray, theta: float, scaling: YarnRopeScaling) -> np.ndarray:
    """Pairs up to that which turns `beta_fast` times in the original context are kept, those from that which
    turns `beta_slow` times on are divided by the factor; between them the two are blended linearly in the
    pair's number."""
    rotary_dim = 2 * len(frequencies)

    def pair_that_turns(times: float) -> float:
        per_turn = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return rotary_dim * math.log(per_turn) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    width = last - first or 0.001  # a step, where the band has no width
    divided = np.clip((np.arange(len(frequencies)) - first) / width, 0, 1)
    return divided * frequencies / scaling.factor + (1 - divided) * frequencies


def llama3_frequencies(frequencies: np.ndarray, scaling: Llama3RopeScaling) -> np.ndarray:
    """Wavelengths over original context / low_freq_factor are stretched, those under context /
    high_freq_factor kept.

    Between them the two are blended linearly in (context / wavelength).
    """
    # Within the original context.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(blend, 0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor
