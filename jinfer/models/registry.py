"""From the `architectures` of a config.json to the family that implements it."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from jinfer.errors import UnsupportedModelError
from jinfer.models import llama, mistral, qwen2, qwen3
from jinfer.models.config import ModelConfig
from jinfer.models.model import Model
from pallas_kernels import Implementation

FAMILIES = (llama, qwen2, qwen3, mistral)


def known_architectures() -> dict[str, ModuleType]:
    """The module of each architecture."""
    return {name: family for family in FAMILIES for name in family.ARCHITECTURES}


def read_model_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Checks and reads a config.json. Raises UnsupportedModelError, with what is known, for what jinfer cannot run."""
    names = raw.get("architectures")
    if not isinstance(names, list | tuple) or not names:
        raise UnsupportedModelError(
            "config.json has no 'architectures', which says how to run the model; it is a list with one of "
            + ", ".join(known_architectures())
        )
    family = _family_of(names[0])
    quantization = raw.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "an unnamed method")
        raise UnsupportedModelError(
            f"config.json says that the weights are quantized with {method}, which jinfer cannot read yet; "
            "use the model's unquantized checkpoint"
        )
    return family.read_config(raw)


def build_model(config: ModelConfig, dtype: jnp.dtype, attention: Implementation) -> Model:
    """The model of a config, without weights."""
    return _family_of(config.architecture).build(config, dtype, attention)


def _family_of(architecture: str) -> ModuleType:
    families = known_architectures()
    if architecture not in families:
        raise UnsupportedModelError(
            f"config.json has architecture {architecture!r}; jinfer knows {', '.join(families)} "
            "(docs/adding_a_model.md says how to add one)"
        )
    return families[architecture]
