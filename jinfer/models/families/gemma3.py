"""Gemma 3 (Gemma Team, "Gemma 3 Technical Report", 2025): Gemma 2 with a norm of queries and keys in place of
soft caps, five layers with a window to each without, and rotary embedding of their own for these."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.families.gemma2 import as_gemma, read_cap
from jinfer.models.rope_entries import read_rope_by_type
from jinfer.models.window_entries import FULL, SLIDING, read_periodic_windows

ARCHITECTURES = ("Gemma3ForCausalLM",)
MODEL_TYPE = "gemma3_text"
DEFAULTS = FamilyDefaults(
    vocab_size=262208,
    intermediate_size=9216,
    max_position_embeddings=131072,
    num_kv_heads=4,
    head_dim=256,
    num_layers=26,
    num_heads=8,
    tie_word_embeddings=True,
    activation="gelu_pytorch_tanh",
)
THETAS = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}
PATTERN = 6


def read_config(entries: Entries) -> ModelConfig:
    """Each `sliding_window_pattern`-th layer has no window, where there are no `layer_types`.
    `attn_logit_softcapping` is not read, in transformers either."""
    pattern = entries.integer("sliding_window_pattern", PATTERN)
    windows = read_periodic_windows(entries, DEFAULTS, period=pattern)
    bias = entries.switch("attention_bias", False)
    config = read_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        qkv_bias=bias,
        output_bias=bias,
        has_head_norms=True,
        sliding_windows=windows,
        activation_entry="hidden_activation",
        rope_reader=lambda entries, context, kind: read_rope_by_type(entries, context, THETAS)[kind],
    )
    logits_soft_cap = read_cap(entries, "final_logit_softcapping", None)
    return as_gemma(entries, config, soft_cap=None, logits_soft_cap=logits_soft_cap)
