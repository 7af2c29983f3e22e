"""DeepSeek-V2 and V2-Lite (DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts
Language Model", 2024): Llama with latent attention."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.config_entries import FamilyDefaults
from jinfer.models.latent_entries import LatentDefaults, read_latent_decoder_config

ARCHITECTURES = ("DeepseekV2ForCausalLM",)
MODEL_TYPE = "deepseek_v2"
DEFAULTS = FamilyDefaults(vocab_size=32000, intermediate_size=11008, max_position_embeddings=2048)
LATENT_DEFAULTS = LatentDefaults(q_latent_dim=1536)


def read_config(entries: Entries) -> ModelConfig:
    """Pairs of rotary dimensions lie side by side. The first `first_k_dense_replace` layers have no
    experts."""
    config = read_latent_decoder_config(
        entries, ARCHITECTURES[0], DEFAULTS, LATENT_DEFAULTS, has_interleaved_rope=True
    )
    if entries.integer("first_k_dense_replace", 0, at_least=0) < config.num_layers:
        entries.refuse("first_k_dense_replace", "jinfer has no experts yet: all layers must be dense")
    return config
