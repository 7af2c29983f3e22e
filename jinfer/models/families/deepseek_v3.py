"""DeepSeek-V3 and R1 (DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024): Llama with latent attention."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults
from jinfer.models.latent_entries import LatentDefaults, read_latent_decoder_config

ARCHITECTURES = ("DeepseekV3ForCausalLM",)
MODEL_TYPE = "deepseek_v3"
DEFAULTS = FamilyDefaults(
    vocab_size=129280,
    intermediate_size=18432,
    max_position_embeddings=4096,
    num_heads=128,
    num_layers=61,
)
LATENT_DEFAULTS = LatentDefaults(q_latent_dim=1536)
PREDICTION_LAYERS = "num_nextn_predict_layers", "num_mtp_layers"
"""Two names of one entry."""


def read_config(entries: Entries) -> ModelConfig:
    """With `rope_interleave` pairs of rotary dimensions lie side by side, and else half of them apart. The
    first `first_k_dense_replace` layers have no experts."""
    config = read_latent_decoder_config(
        entries,
        ARCHITECTURES[0],
        DEFAULTS,
        LATENT_DEFAULTS,
        has_interleaved_rope=entries.switch("rope_interleave", True),
    )
    if entries.integer("first_k_dense_replace", 3, at_least=0) < config.num_layers:
        entries.refuse("first_k_dense_replace", "jinfer has no experts yet: all layers must be dense")
    return with_prediction_layers(config, entries)


def with_prediction_layers(config: ModelConfig, entries: Entries) -> ModelConfig:
    """The decoder of a checkpoint that has layers for the prediction of several tokens behind its own."""
    given = [entries.integer(name, None, at_least=0) for name in PREDICTION_LAYERS]
    return replace(config, num_prediction_layers=max((each for each in given if each is not None), default=1))
