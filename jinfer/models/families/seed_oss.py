"""Seed-OSS (ByteDance Seed Team, 2025): Llama with a bias on queries, keys and values and a switch of its own
for that of the output."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.window_entries import check_full_attention

ARCHITECTURES = ("SeedOssForCausalLM",)
MODEL_TYPE = "seed_oss"
DEFAULTS = FamilyDefaults(
    vocab_size=155136,
    intermediate_size=27648,
    max_position_embeddings=524288,
    num_kv_heads=8,
    head_dim=128,  # whatever hidden_size / num_attention_heads may be
    num_layers=64,
    num_heads=80,
)


def read_config(entries: Entries) -> ModelConfig:
    """`attention_bias`, true where it is absent, is of queries, keys and values; `attention_out_bias` of the
    output."""
    check_full_attention(entries, DEFAULTS)
    return read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=entries.switch("attention_bias", True),
        output_bias=entries.switch("attention_out_bias", False),
        mlp_bias=entries.switch("mlp_bias", False),
    )
