"""OLMo 2 (Team OLMo, "2 OLMo 2 Furious", 2025): Llama with norms behind attention and MLP in place of those
before them, and norms of all queries together and of all keys."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import LayerConfig, ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.window_entries import check_full_attention

ARCHITECTURES = ("Olmo2ForCausalLM",)
MODEL_TYPE = "olmo2"
DEFAULTS = FamilyDefaults(
    vocab_size=50304, intermediate_size=11008, max_position_embeddings=2048, rms_norm_eps=1e-5
)


def read_config(entries: Entries) -> ModelConfig:
    """`attention_bias` puts a bias on all four projections of attention."""
    check_full_attention(entries, DEFAULTS)
    bias = entries.switch("attention_bias", False)
    config = read_decoder_config(entries, ARCHITECTURES[0], DEFAULTS, qkv_bias=bias, output_bias=bias)
    return replace(config, layers=tuple(with_norms_behind(layer) for layer in config.layers))


def with_norms_behind(layer: LayerConfig) -> LayerConfig:
    """The layer with the norms of OLMo 2 and 3."""
    attention = replace(layer.grouped_attention, has_projection_norms=True)
    return replace(layer, attention=attention, has_pre_norms=False, has_post_norms=True)
