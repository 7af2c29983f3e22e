"""Qwen2 and Qwen2.5 (Yang et al., "Qwen2 Technical Report", 2024): Llama with a bias on queries, keys and values."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jinfer.models.attention import Attention
from jinfer.models.config import ModelConfig, read_decoder_config, read_layer_windows
from jinfer.models.decoder import Decoder, decoder_weights
from jinfer.models.model import Model
from pallas_kernels import Implementation

ARCHITECTURES = ("Qwen2ForCausalLM",)


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """The bias is part of the architecture, not an option; upper layers may have a sliding window."""
    return read_decoder_config(raw, qkv_bias=True, output_bias=False, sliding_windows=read_layer_windows(raw))


def build(config: ModelConfig, dtype: jnp.dtype, attention: Implementation) -> Model:
    """The plain decoder."""
    return Model.of(Decoder(config, dtype, Attention(config, dtype, attention)), decoder_weights(config))
