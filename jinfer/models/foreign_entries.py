"""Entries of config.json that change what other families compute, and that the family of the file does not
read.

Its module in transformers does not read them either: a file that has one was written for code that it does
not name, so that the tokens are perhaps not those that its author has seen.
"""

import logging
from collections.abc import Mapping
from typing import Any

from jinfer.entries import Entries, shown
from jinfer.models.config import ModelConfig

logger = logging.getLogger(__name__)

OFF: tuple[Any, ...] = (False, 0)
ONE: tuple[Any, ...] = (1,)
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # Attention.
    "attn_logit_softcapping": OFF,
    "attention_multiplier": (),
    "query_pre_attn_scalar": (),
    "attention_scale": (),
    "attn_temperature_tuning": OFF,
    "llama_4_scaling": (),
    "attention_chunk_size": OFF,
    "clip_qkv": OFF,
    "qk_norm": OFF,
    "use_qk_norm": OFF,
    "qk_layernorm": OFF,
    "alibi": OFF,
    "attention_sinks": OFF,
    "interleaved_sliding_window": OFF,
    "sliding_window_pattern": OFF,
    "no_rope_layers": ([],),
    "no_rope_layer_interval": OFF,
    "kv_lora_rank": OFF,
    # Rotary embedding beside its own entries.
    "rope_interleaved": OFF,
    "rope_interleave": OFF,
    "use_mrope": OFF,
    "rotary_pct": ONE,
    # Scales and caps.
    "embedding_multiplier": ONE,
    "residual_multiplier": ONE,
    "logits_scaling": ONE,
    "logit_scale": ONE,
    "final_logit_softcapping": OFF,
    "scale_emb": ONE,
    "scale_depth": ONE,
    # Blocks.
    "hidden_activation": ("silu", "swish"),
    "mlp_type": (),
    "norm_type": ("rmsnorm", "rms_norm", "RMSNorm"),
    "norm_after": OFF,
    "use_parallel_residual": OFF,
    "parallel_attn": OFF,
    "num_local_experts": (*OFF, 1),
    "num_experts": (*OFF, 1),
}
"""Values that change nothing, by the name of the entry; null never does."""
WITHOUT_WINDOWS = (
    *("LlamaForCausalLM", "GlmForCausalLM", "Glm4ForCausalLM", "SeedOssForCausalLM", "Olmo2ForCausalLM"),
    "GraniteForCausalLM",
)
REFUSED = ("per_layer_config",)
"""Entries that transformers reads, in every family, and jinfer in those that need it."""


def check_foreign_entries(entries: Entries, config: ModelConfig) -> None:
    """Warns of each that is there, not neutral and not read by the family. Raises UnsupportedModelError for
    what transformers would apply."""
    for name in set(REFUSED) & set(entries.unread()):
        if entries.object(name) is not None:
            entries.refuse(name, "jinfer implements layers of one shape")
    for name, value in _foreign(entries, config).items():
        logger.warning(
            "config.json has %s %s, which is no entry of %s and is not applied: if the model was made with "
            "it, its tokens are others",
            name,
            shown(value),
            config.architecture,
        )


def _foreign(entries: Entries, config: ModelConfig) -> dict[str, Any]:
    raw = entries.raw
    head_dims = {layer.attention.head_dim for layer in config.layers}
    head_dim = next(iter(head_dims)) if len(head_dims) == 1 else None
    scales = () if head_dim is None else (head_dim**-0.5,)
    neutral = {
        **NEUTRAL,
        "query_pre_attn_scalar": (head_dim,),  # scores are divided by its square root
        "attention_multiplier": scales,
        "attention_scale": scales,
        "no_rope_layers": ([], [1] * config.num_layers),  # 1 is a layer with rotary embedding
    }
    unread = set(entries.unread()) & set(neutral)
    found = {name: raw[name] for name in neutral if name in unread and raw[name] not in neutral[name]}
    if _has_unused_window(raw, config):
        found["sliding_window"] = raw["sliding_window"]
    return found


def _has_unused_window(raw: Mapping[str, Any], config: ModelConfig) -> bool:
    """True if a family without windows has one in its file that would show within the context.

    Attention is full then, as in transformers' module; its cache (5.24) yet forgets keys before the window in
    decoding.
    """
    window = raw.get("sliding_window")
    is_shorter = not isinstance(window, int) or window < config.context_length
    return (
        config.architecture in WITHOUT_WINDOWS
        and window is not None
        and raw.get("use_sliding_window") is not False
        and is_shorter
    )
