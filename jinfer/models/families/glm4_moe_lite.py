"""GLM-4.7-Flash (Zhipu AI, 2026): the layers of DeepSeek-V3 in other sizes, after one without experts."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults
from jinfer.models.deepseek_entries import (
    ExpertDefaults,
    check_method,
    with_deepseek_experts,
    with_prediction_layers,
)
from jinfer.models.families.deepseek_v3 import METHOD, read_balanced
from jinfer.models.latent_entries import LatentDefaults, read_latent_decoder_config

ARCHITECTURES = ("Glm4MoeLiteForCausalLM",)
MODEL_TYPE = "glm4_moe_lite"
DEFAULTS = FamilyDefaults(
    vocab_size=154880,
    intermediate_size=10240,
    max_position_embeddings=202752,
    num_heads=20,
    num_layers=47,
    rms_norm_eps=1e-5,
)
LATENT_DEFAULTS = LatentDefaults(q_latent_dim=768, nope_dim=192, value_dim=256)
EXPERT_DEFAULTS = ExpertDefaults(num_experts=64, expert_size=1536, num_shared=1, top_k=4, scaling=1.8)
DENSE, SPARSE = "dense", "sparse"


def read_config(entries: Entries) -> ModelConfig:
    """Pairs of rotary dimensions lie side by side with `rope_interleave`, and else half of them apart.
    `mlp_layer_types` says which layers have experts: all but the first, where it is absent."""
    config = read_latent_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        LATENT_DEFAULTS,
        has_interleaved_rope=entries.switch("rope_interleave", True),
    )
    check_method(entries, METHOD)
    are_sparse = _read_sparse_layers(entries, config.num_layers)
    config = with_deepseek_experts(config, entries, EXPERT_DEFAULTS, are_sparse, read_balanced(entries))
    return with_prediction_layers(config, entries)


def _read_sparse_layers(entries: Entries, num_layers: int) -> tuple[bool, ...]:
    types = entries.texts("mlp_layer_types") or (DENSE, *(SPARSE,) * (num_layers - 1))
    if len(types) != num_layers or not set(types) <= {DENSE, SPARSE}:
        entries.refuse("mlp_layer_types", f"it must be a list of {num_layers} of {DENSE!r} and {SPARSE!r}")
    return tuple(kind == SPARSE for kind in types)
