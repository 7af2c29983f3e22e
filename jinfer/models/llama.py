"""Llama 2, 3 and 3.1 (Touvron et al. 2023; Dubey et al. 2024), and what is built like them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jinfer.models.attention import Attention
from jinfer.models.config import ModelConfig, read_decoder_config
from jinfer.models.decoder import Decoder, decoder_weights
from jinfer.models.model import Model
from pallas_kernels import Implementation

ARCHITECTURES = ("LlamaForCausalLM",)


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """`attention_bias` puts a bias on all four projections of attention, `mlp_bias` on those of the MLP."""
    bias = raw.get("attention_bias", False)
    return read_decoder_config(raw, qkv_bias=bias, output_bias=bias, mlp_bias=raw.get("mlp_bias", False))


def build(config: ModelConfig, dtype: jnp.dtype, attention: Implementation) -> Model:
    """The plain decoder."""
    return Model.of(Decoder(config, dtype, Attention(config, dtype, attention)), decoder_weights(config))
