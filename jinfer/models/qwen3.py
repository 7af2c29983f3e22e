"""Qwen3 (Yang et al., "Qwen3 Technical Report", 2025): queries and keys are normalized before they are rotated."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jinfer.models.attention import Attention
from jinfer.models.config import ModelConfig, read_decoder_config, read_layer_windows
from jinfer.models.decoder import Decoder, decoder_weights
from jinfer.models.model import Model
from jinfer.models.weights import WeightSource
from pallas_kernels import Implementation

ARCHITECTURES = ("Qwen3ForCausalLM",)
DEFAULT_HEAD_DIM = 128  # in files that do not mention it, whatever hidden_size / num_attention_heads may be


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """`attention_bias` puts a bias on all four projections; upper layers may have a sliding window."""
    raw = {"head_dim": DEFAULT_HEAD_DIM, **raw}
    bias = raw.get("attention_bias", False)
    return read_decoder_config(raw, qkv_bias=bias, output_bias=bias, sliding_windows=read_layer_windows(raw))


def build(config: ModelConfig, dtype: jnp.dtype, attention: Implementation) -> Model:
    """The decoder with a norm on queries and keys, whose scales are two more weights."""
    norms = {
        f"attention/{name}/scale": WeightSource((f"model.layers.{{layer}}.self_attn.{name}.weight",))
        for name in ("q_norm", "k_norm")
    }
    module = Decoder(config, dtype, Attention(config, dtype, attention, normalized_heads=True))
    return Model.of(module, {**decoder_weights(config), **norms})
