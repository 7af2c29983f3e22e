"""Granite 3 (Granite Team, IBM, "Granite 3.0 Language Models", 2024): Llama with four multipliers, as maximal
update parametrization has them (Yang et al., "Tensor Programs V", 2022)."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config, read_num_layers
from jinfer.models.window_entries import FULL, read_layer_types

ARCHITECTURES = ("GraniteForCausalLM",)
MODEL_TYPE = "granite"
DEFAULTS = FamilyDefaults(vocab_size=32000, intermediate_size=11008, max_position_embeddings=2048)


def read_config(entries: Entries) -> ModelConfig:
    """Biases are those of Llama. `attention_multiplier` stands in place of head_dim ** -0.5, and is 1 where
    it is absent."""
    if set(read_layer_types(entries, read_num_layers(entries)) or ()) - {FULL}:
        entries.refuse("layer_types", f"all layers of this family are of {FULL}")
    bias, mlp_bias = entries.switch("attention_bias", False), entries.switch("mlp_bias", False)
    config = read_decoder_config(
        entries, ARCHITECTURES[0], DEFAULTS, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias
    )
    scale = entries.number("attention_multiplier", 1.0, above=0)
    return replace(
        config,
        layers=tuple(
            replace(layer, attention=replace(layer.grouped_attention, scale=scale)) for layer in config.layers
        ),
        embedding_scale=entries.number("embedding_multiplier", 1.0, above=0),
        residual_scale=entries.number("residual_multiplier", 1.0, above=0),
        logits_divisor=entries.number("logits_scaling", 1.0, above=0),
    )
