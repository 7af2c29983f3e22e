"""Qwen3 (Yang et al., "Qwen3 Technical Report", 2025): queries and keys are normalized before they are rotated."""

import jax.numpy as jnp

from jinfer.models.config import FamilyDefaults, ModelConfig, read_decoder_config, read_layer_windows
from jinfer.models.entries import Entries
from jinfer.models.model import Model
from jinfer.models.params import decoder_params, head_norms
from pallas_kernels import Implementation

ARCHITECTURES = ("Qwen3ForCausalLM",)
MODEL_TYPE = "qwen3"
DEFAULTS = FamilyDefaults(
    vocab_size=151936,
    intermediate_size=22016,
    max_position_embeddings=32768,
    num_kv_heads=32,
    head_dim=128,  # whatever hidden_size / num_attention_heads may be
)


def read_config(entries: Entries) -> ModelConfig:
    """`attention_bias` puts a bias on all four projections; upper layers may have a sliding window."""
    bias, windows = entries.switch("attention_bias", False), read_layer_windows(entries)
    return read_decoder_config(
        entries, ARCHITECTURES[0], DEFAULTS, qkv_bias=bias, output_bias=bias, sliding_windows=windows
    )


def build(config: ModelConfig, dtype: jnp.dtype, implementation: Implementation) -> Model:
    """The decoder with a norm on queries and keys, whose scales are two more weights."""
    return Model(config, implementation, decoder_params(config, dtype, head_norms(config, dtype)))
