"""Llama 2, 3 and 3.1 (Touvron et al. 2023; Dubey et al. 2024), and what is built like them."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.window_entries import check_full_attention

ARCHITECTURES = ("LlamaForCausalLM",)
MODEL_TYPE = "llama"
DEFAULTS = FamilyDefaults(vocab_size=32000, intermediate_size=11008, max_position_embeddings=2048)


def read_config(entries: Entries) -> ModelConfig:
    """`attention_bias` puts a bias on all four projections of attention, `mlp_bias` on those of the MLP."""
    check_full_attention(entries, DEFAULTS)
    bias, mlp_bias = entries.switch("attention_bias", False), entries.switch("mlp_bias", False)
    return read_decoder_config(
        entries, ARCHITECTURES[0], DEFAULTS, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias
    )
