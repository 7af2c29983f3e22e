"""Qwen3 (Yang et al., "Qwen3 Technical Report", 2025): queries and keys are normalized before they are rotated."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jinfer.models.config import ModelConfig, read_decoder_config, read_layer_windows
from jinfer.models.decoder import Decoder, decoder_weights
from jinfer.models.layers import Attention, RMSNorm
from jinfer.models.model import Model
from jinfer.models.weights import WeightSource
from pallas_kernels import Implementation

ARCHITECTURES = ("Qwen3ForCausalLM",)
DEFAULT_HEAD_DIM = 128  # in files that do not mention it, whatever hidden_size / num_attention_heads may be


class NormalizedAttention(Attention):
    """Attention with an RMSNorm over head_dim on queries and on keys."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, implementation: Implementation) -> None:
        super().__init__(config, dtype, implementation)
        self.q_norm = RMSNorm(config.num_layers, config.head_dim, config.rms_norm_eps, dtype)
        self.k_norm = RMSNorm(config.num_layers, config.head_dim, config.rms_norm_eps, dtype)

    def normalize(self, q: Array, k: Array, layer: int) -> tuple[Array, Array]:
        """Each head of q and k [tokens, heads, head_dim] by itself."""
        return self.q_norm(q, layer), self.k_norm(k, layer)


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """`attention_bias` puts a bias on all four projections; upper layers may have a sliding window."""
    raw = {"head_dim": DEFAULT_HEAD_DIM, **raw}
    bias = raw.get("attention_bias", False)
    return read_decoder_config(raw, qkv_bias=bias, output_bias=bias, sliding_windows=read_layer_windows(raw))


def build(config: ModelConfig, dtype: jnp.dtype, attention: Implementation) -> Model:
    """The decoder with normalized attention, whose scales are two more weights."""
    norms = {
        f"attention/{name}/scale": WeightSource((f"model.layers.{{layer}}.self_attn.{name}.weight",))
        for name in ("q_norm", "k_norm")
    }
    module = Decoder(config, dtype, NormalizedAttention(config, dtype, attention))
    return Model.of(module, {**decoder_weights(config), **norms})
