"""The family that implements the `architectures` of a config.json."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from jinfer.entries import Entries, shown
from jinfer.errors import UnsupportedModelError
from jinfer.models.config import ModelConfig
from jinfer.models.families import (
    deepseek_v2,
    deepseek_v3,
    gemma2,
    gemma3,
    gemma4,
    glm,
    glm4,
    glm4_moe_lite,
    gpt_oss,
    granite,
    llama,
    ministral,
    ministral3,
    mistral,
    mixtral,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    qwen3_vl,
    seed_oss,
    smollm3,
)
from jinfer.models.foreign_entries import check_foreign_entries
from jinfer.models.model import Model
from jinfer.models.multimodal import MULTIMODAL, is_multimodal, say_what_is_left_out, text_config
from jinfer.models.params import decoder_params
from jinfer.weights.formats.format_choice import read_format
from pallas_kernels import Implementation

logger = logging.getLogger(__name__)

FAMILIES = (
    *(
        llama,
        qwen2,
        qwen3,
        qwen3_vl,
        mistral,
        ministral,
        ministral3,
        phi3,
        glm,
        glm4,
        seed_oss,
        smollm3,
        olmo2,
        olmo3,
    ),
    *(granite, gemma2, gemma3, gemma4, deepseek_v2, deepseek_v3, glm4_moe_lite),
    *(qwen3_moe, qwen2_moe, mixtral, gpt_oss),
)


def known_architectures() -> dict[str, ModuleType]:
    """The module of each architecture; of a multimodal one, that of its usual text model."""
    by_type = {family.MODEL_TYPE: family for family in FAMILIES}
    return {
        **{name: family for family in FAMILIES for name in family.ARCHITECTURES},
        **{name: by_type[multimodal.text_types[0]] for name, multimodal in MULTIMODAL.items()},
    }


def read_model_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Checks and reads a config.json; of a multimodal model it is that of its text model. Raises
    UnsupportedModelError, with what is known, for what jinfer cannot run."""
    entries = Entries(text_config(raw))
    family = _family_of_entries(entries)
    read_format(entries.raw)  # raises for weights that jinfer could not read
    config = family.read_config(entries)
    check_foreign_entries(entries, config)
    if not is_multimodal(raw):
        return config
    say_what_is_left_out(raw)
    return replace(config, is_part=True)


def build_model(config: ModelConfig, dtype: jnp.dtype, implementation: Implementation) -> Model:
    """The model of a config, without weights."""
    return Model(config, implementation, decoder_params(config, dtype))


def _family_of_entries(entries: Entries) -> ModuleType:
    """The family of the first of `architectures`, or of `model_type` where there are none: transformers goes
    by the latter."""
    names, model_type = entries.raw.get("architectures"), entries.text("model_type", None)
    by_type = {family.MODEL_TYPE: family for family in FAMILIES}.get(model_type)
    if names in (None, [], ()) and by_type is not None:
        return by_type
    if not names or not isinstance(names, list | tuple) or not isinstance(names[0], str):
        found = f"{shown(names)} for" if names else "no"
        raise UnsupportedModelError(
            f"config.json has {found} 'architectures', which says how to run the model; it is a list with "
            "one of " + ", ".join(known_architectures())
        )
    family = _family_of(names[0])
    if by_type not in (None, family):
        logger.warning(
            "config.json has architectures %s and model_type %r, which is another family's: the model is "
            "run as the former, and by transformers as the latter; correct the one that does not hold",
            list(names),
            model_type,
        )
    return family


def _family_of(architecture: str) -> ModuleType:
    """The case of letters does not matter: Llama was once spelled LLaMA."""
    families = {name.lower(): family for name, family in known_architectures().items()}
    if architecture.lower() not in families:
        raise UnsupportedModelError(
            f"config.json has architecture {architecture!r}; jinfer knows {', '.join(known_architectures())} "
            "(docs/adding_a_model.md says how to add one)"
        )
    return families[architecture.lower()]
