"""GLM-4-0414 in 9 and 32 billion parameters, and GLM-Z1 (Z.ai, 2025): GLM-4-9B with norms behind attention
and MLP as well."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.families import glm

ARCHITECTURES = ("Glm4ForCausalLM",)
MODEL_TYPE = "glm4"
DEFAULTS = glm.DEFAULTS
NORMS = (
    ("attention_post_norm", "post_self_attn_layernorm"),
    ("mlp_norm", "post_attention_layernorm"),
    ("mlp_post_norm", "post_mlp_layernorm"),
)


def read_config(entries: Entries) -> ModelConfig:
    """The entries are those of GLM-4-9B; what is called post_attention_layernorm is before the MLP."""
    config = glm.read_glm_config(entries, ARCHITECTURES[0])
    layers = tuple(replace(layer, has_post_norms=True) for layer in config.layers)
    return replace(config, layers=layers, tensor_names=replace(glm.NAMES, norms=NORMS))
