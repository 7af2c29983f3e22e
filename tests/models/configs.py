"""Small config.json files, and what reading one gives or says."""

from typing import Any

import pytest

from jinfer.errors import UnsupportedModelError
from jinfer.models.config import ModelConfig
from jinfer.models.registry import read_model_config

LLAMA, MISTRAL, QWEN2, QWEN3 = FAMILIES = tuple(f"{name}ForCausalLM" for name in ("Llama", "Mistral", "Qwen2", "Qwen3"))
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
