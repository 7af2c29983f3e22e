"""GLM-4.7-Flash (Zhipu AI, 2026): DeepSeek-V3's layers with other sizes and other names of what differs."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults
from jinfer.models.families.deepseek_v3 import with_prediction_layers
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


def read_config(entries: Entries) -> ModelConfig:
    """With `rope_interleave` pairs of rotary dimensions lie side by side, and else half of them apart.
    `mlp_layer_types` says which layers have experts: all but the first, where it is absent."""
    config = read_latent_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        LATENT_DEFAULTS,
        has_interleaved_rope=entries.switch("rope_interleave", True),
    )
    types = entries.texts("mlp_layer_types")
    if types is None or set(types) != {"dense"}:
        entries.refuse("mlp_layer_types", "jinfer has no experts yet: all layers must be dense")
    return with_prediction_layers(config, entries)
