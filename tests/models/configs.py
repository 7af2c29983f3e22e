"""Small config.json files, and what reading one gives or says."""

from dataclasses import replace
from typing import Any

import pytest

from jinfer.errors import UnsupportedModelError
from jinfer.models.config import AttentionConfig, ModelConfig
from jinfer.models.registry import read_model_config

LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GLM, GLM4, SEED_OSS, SMOLLM3, OLMO2, GRANITE = FAMILIES = tuple(
    f"{name}ForCausalLM"
    for name in (
        *("Llama", "Mistral", "Qwen2", "Qwen3", "Phi3", "Glm", "Glm4", "SeedOss", "SmolLM3", "Olmo2"),
        "Granite",
    )
)
GEMMA2, GEMMA3 = GEMMAS = "Gemma2ForCausalLM", "Gemma3ForCausalLM"
ANY_ROPE = tuple(architecture for architecture in FAMILIES if architecture != PHI3)
"""The families that have every type of rotary embedding."""
DEFAULT_THETAS = {**dict.fromkeys(FAMILIES, 10000.0), SMOLLM3: 2e6}
SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def read(architecture: str = LLAMA, **entries: Any) -> ModelConfig:
    """The small config with `entries` added; None stands for null."""
    return read_model_config({"architectures": [architecture], **SMALL, **entries})


def refusal(architecture: str = LLAMA, **entries: Any) -> str:
    """What reading it raises."""
    with pytest.raises(UnsupportedModelError) as caught:
        read(architecture, **entries)
    return str(caught.value)


def windows_of(config: ModelConfig) -> tuple[int | None, ...]:
    """The sliding window of each layer."""
    return tuple(layer.attention.sliding_window for layer in config.layers)


def with_windows(config: ModelConfig, windows: tuple[int | None, ...]) -> ModelConfig:
    """The model with as many layers as there are windows, all like the first but for these."""
    layer = config.layers[0]
    attentions = [replace(layer.attention, sliding_window=window) for window in windows]
    return replace(config, layers=tuple(replace(layer, attention=attention) for attention in attentions))


def attention_of(config: ModelConfig) -> AttentionConfig:
    """The attention of all layers, without its window."""
    (attention,) = {replace(layer.attention, sliding_window=None) for layer in config.layers}
    return attention
