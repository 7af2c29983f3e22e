"""Mistral 7B (Jiang et al. 2023) and what is built like it: Llama without biases, but with a window."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.window_entries import read_layer_types, read_window, windows_by_type

ARCHITECTURES = ("MistralForCausalLM",)
MODEL_TYPE = "mistral"
DEFAULTS = FamilyDefaults(
    vocab_size=32000, intermediate_size=14336, max_position_embeddings=131072, num_kv_heads=8
)


def read_config(entries: Entries) -> ModelConfig:
    """`sliding_window` holds for every layer, or for those that `layer_types` names, as in Ministral."""
    return read_mistral_config(entries, ARCHITECTURES[0])


def read_mistral_config(entries: Entries, architecture: str) -> ModelConfig:
    """Mistral 7B, and Ministral."""
    num_layers, window = read_num_layers(entries), read_window(entries)
    types = read_layer_types(entries, num_layers)
    windows = (
        (window,) * num_layers if types is None else windows_by_type(types, window, "sliding_window is null")
    )
    return read_decoder_config(
        entries, architecture, DEFAULTS, qkv_bias=False, output_bias=False, sliding_windows=windows
    )
