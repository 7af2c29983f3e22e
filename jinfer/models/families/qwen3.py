"""Qwen3 (Yang et al., "Qwen3 Technical Report", 2025): queries and keys are normalized before they are
rotated."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.window_entries import read_layer_windows

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
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        has_head_norms=True,
        sliding_windows=windows,
    )
