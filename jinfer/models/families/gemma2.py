"""Gemma 2 (Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024): norms before and
behind attention and MLP, which multiply by 1 + weight, a gate of GELU, soft caps, and a window in every other
layer."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.window_entries import read_periodic_windows

ARCHITECTURES = ("Gemma2ForCausalLM",)
MODEL_TYPE = "gemma2"
DEFAULTS = FamilyDefaults(
    vocab_size=256000,
    intermediate_size=9216,
    max_position_embeddings=8192,
    num_kv_heads=4,
    head_dim=256,
    num_layers=26,
    num_heads=8,
    tie_word_embeddings=True,
    activation="gelu_pytorch_tanh",
)
ATTENTION_CAP, LOGITS_CAP = 50.0, 30.0


def read_config(entries: Entries) -> ModelConfig:
    """`layer_types`, where it is absent, begins with a window and alternates. A soft cap of null is none."""
    windows = read_periodic_windows(entries, DEFAULTS, period=2)
    bias = entries.switch("attention_bias", False)
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        sliding_windows=windows,
        activation_entry="hidden_activation",
    )
    soft_cap = read_cap(entries, "attn_logit_softcapping", ATTENTION_CAP)
    logits_soft_cap = read_cap(entries, "final_logit_softcapping", LOGITS_CAP)
    return as_gemma(entries, config, soft_cap=soft_cap, logits_soft_cap=logits_soft_cap)


def read_cap(entries: Entries, name: str, default: float | None) -> float | None:
    """A soft cap: null is none, and a file that does not mention it means `default`."""
    return entries.number(name, None if name in entries.raw else default, above=0)


def as_gemma(
    entries: Entries, config: ModelConfig, *, soft_cap: float | None, logits_soft_cap: float | None
) -> ModelConfig:
    """The decoder with what Gemma 2 and 3 have in common."""
    if entries.switch("use_bidirectional_attention", False):
        entries.refuse("use_bidirectional_attention", "jinfer implements attention to what came before")
    scale = entries.number("query_pre_attn_scalar", 256.0, above=0) ** -0.5
    layers = (
        replace(
            layer,
            attention=replace(layer.grouped_attention, scale=scale, soft_cap=soft_cap),
            has_post_norms=True,
        )
        for layer in config.layers
    )
    return replace(
        config,
        layers=tuple(layers),
        embedding_scale=config.hidden_size**0.5,
        norm_offset=1.0,
        logits_soft_cap=logits_soft_cap,
    )
