"""Ministral 8B (Mistral AI, "Un Ministral, des Ministraux", 2024) as transformers 5 has it: Mistral with a
window in some layers."""

from jinfer.entries import Entries
from jinfer.models.config import ModelConfig
from jinfer.models.families.mistral import read_mistral_config

ARCHITECTURES = ("MinistralForCausalLM",)
MODEL_TYPE = "ministral"


def read_config(entries: Entries) -> ModelConfig:
    """`sliding_window` holds for the layers that `layer_types` names, or for every one."""
    return read_mistral_config(entries, ARCHITECTURES[0])
