"""The tiny models that jinfer is compared on with transformers: at least one for every option that a family reads.

Their head dimensions differ, so that the kernels meet whole and padded ones. Windows are smaller than the
longest prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VOCAB_SIZE = 96
MAX_POSITIONS = 128


@dataclass(frozen=True)
class Variant:
    """A class of transformers, and the options of its configuration."""

    architecture: str
    options: Mapping[str, Any]
    max_shard_size: str = "1GB"


def _variant(architecture: str, *, max_shard_size: str = "1GB", **options: Any) -> Variant:
    common = {
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": MAX_POSITIONS,
        "num_hidden_layers": 2,
        "intermediate_size": 72,
        "rms_norm_eps": 1e-5,
    }
    return Variant(architecture, {**common, **options}, max_shard_size)


def _sizes(hidden: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads}


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # With head_dim 16 the wavelengths are 6 (kept: under 32 / 4), 20 (blended) and 63 or more (stretched: over 32 / 1).
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}

VARIANTS: Mapping[str, Variant] = {
    "llama2_mha": _variant("LlamaForCausalLM", **_sizes(32, 4, 4)),
    "llama3_rope_sharded": _variant(
        "LlamaForCausalLM", **_sizes(32, 4, 2), head_dim=16, rope_parameters=LLAMA3_ROPE, max_shard_size="32KB"
    ),
    "llama_mqa_biases_tied": _variant(
        "LlamaForCausalLM",
        **_sizes(32, 4, 1),
        head_dim=24,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
    ),
    "llama_linear_rope": _variant("LlamaForCausalLM", **_sizes(48, 4, 2), rope_parameters=LINEAR_ROPE),
    "qwen2_tied": _variant("Qwen2ForCausalLM", **_sizes(32, 4, 2), tie_word_embeddings=True),
    "qwen2_upper_window": _variant(
        "Qwen2ForCausalLM", **_sizes(48, 3, 1), use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3_head_dim_80": _variant("Qwen3ForCausalLM", **_sizes(32, 2, 1), head_dim=80, tie_word_embeddings=True),
    "qwen3_biases": _variant("Qwen3ForCausalLM", **_sizes(32, 4, 2), head_dim=64, attention_bias=True),
    "mistral_window": _variant("MistralForCausalLM", **_sizes(32, 4, 2), head_dim=20, sliding_window=6),
}
