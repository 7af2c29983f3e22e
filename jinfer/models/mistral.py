"""Mistral 7B (Jiang et al. 2023) and what is built like it: Llama without biases, but with a window."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jinfer.models.attention import Attention
from jinfer.models.config import DEFAULT_SLIDING_WINDOW, ModelConfig, read_decoder_config, required
from jinfer.models.decoder import Decoder, decoder_weights
from jinfer.models.model import Model
from pallas_kernels import Implementation

ARCHITECTURES = ("MistralForCausalLM",)


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """`sliding_window` holds for every layer: null is none, and a file that does not mention it means 4096."""
    window = raw.get("sliding_window", DEFAULT_SLIDING_WINDOW)
    windows = (window,) * required(raw, "num_hidden_layers")
    return read_decoder_config(raw, qkv_bias=False, output_bias=False, sliding_windows=windows)


def build(config: ModelConfig, dtype: jnp.dtype, attention: Implementation) -> Model:
    """The plain decoder."""
    return Model.of(Decoder(config, dtype, Attention(config, dtype, attention)), decoder_weights(config))
