"""Qwen2 and Qwen2.5 (Yang et al., "Qwen2 Technical Report", 2024): Llama with a bias on queries, keys and
values."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.window_entries import read_layer_windows

ARCHITECTURES = ("Qwen2ForCausalLM",)
MODEL_TYPE = "qwen2"
DEFAULTS = FamilyDefaults(
    vocab_size=151936, intermediate_size=22016, max_position_embeddings=32768, num_kv_heads=32
)


def read_config(entries: Entries) -> ModelConfig:
    """The bias is part of the architecture, not an option; upper layers may have a sliding window."""
    windows = read_layer_windows(entries)
    return read_decoder_config(
        entries, ARCHITECTURES[0], DEFAULTS, qkv_bias=True, output_bias=False, sliding_windows=windows
    )
