"""GLM-4-9B as Hugging Face has it (GLM Team, "ChatGLM: A Family of Large Language Models from GLM-130B to
GLM-4 All Tools", 2024): Llama that rotates half of each head, in pairs side by side, with gate and up in one
tensor."""

from dataclasses import replace

from jinfer.entries import Entries
from jinfer.models.config import LayerConfig, ModelConfig, TensorNames
from jinfer.models.config_entries import FamilyDefaults, read_decoder_config
from jinfer.models.window_entries import check_full_attention

ARCHITECTURES = ("GlmForCausalLM",)
MODEL_TYPE = "glm"
DEFAULTS = FamilyDefaults(
    vocab_size=151552,
    intermediate_size=13696,
    max_position_embeddings=131072,
    num_layers=40,
    num_kv_heads=2,
    head_dim=128,
    rms_norm_eps=1.5625e-7,
    partial_rotary_factor=0.5,
)
NAMES = TensorNames(gate_up=("mlp.gate_up_proj",))


def read_config(entries: Entries) -> ModelConfig:
    """`attention_bias`, which is true by default, puts a bias on queries, keys and values."""
    return read_glm_config(entries, ARCHITECTURES[0])


def read_glm_config(entries: Entries, architecture: str) -> ModelConfig:
    """GLM-4-9B, and GLM-4-0414 but for its norms."""
    check_full_attention(entries, DEFAULTS)
    bias = entries.switch("attention_bias", True)
    config = read_decoder_config(entries, architecture, DEFAULTS, qkv_bias=bias, output_bias=False)
    layers = tuple(_with_interleaved_rope(layer) for layer in config.layers)
    return replace(config, layers=layers, tensor_names=NAMES)


def _with_interleaved_rope(layer: LayerConfig) -> LayerConfig:
    return replace(layer, attention=replace(layer.grouped_attention, has_interleaved_rope=True))
