"""Multimodal models, of which the text model is run: its configuration, out of theirs."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinfer.entries import Entries
from jinfer.errors import UnsupportedModelError

logger = logging.getLogger(__name__)

TEXT = "text_config"
PARTS = {"vision_config": "vision", "audio_config": "audio"}
"""The other parts of a model, by the entries that describe them."""


@dataclass(frozen=True)
class Multimodal:
    """The `model_type`s that the text model of an architecture may have, of which the first is the
    default."""

    text_types: tuple[str, ...]


MULTIMODAL: Mapping[str, Multimodal] = {
    "Gemma3ForConditionalGeneration": Multimodal(("gemma3_text",)),
    "Gemma4ForConditionalGeneration": Multimodal(("gemma4_text",)),
    "Mistral3ForConditionalGeneration": Multimodal(("mistral", "ministral3")),
    "Qwen3VLForConditionalGeneration": Multimodal(("qwen3_vl_text",)),
}


def is_multimodal(raw: Mapping[str, Any]) -> bool:
    """True for a config.json of an architecture whose text model is run."""
    return _architecture(raw) is not None


def text_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config.json of the text model of a multimodal one, and any other as it is.

    It has the entries of `text_config`, and of those beside it what it lacks; but `tie_word_embeddings` is
    said outside, and true where it is absent: a head that is stored with values of its own is one anyway.
    Raises UnsupportedModelError.
    """
    architecture = _architecture(raw)
    if architecture is None:
        return raw
    entries = Entries(raw).object(TEXT)
    text = {} if entries is None else entries.raw
    outside = {name: value for name, value in raw.items() if name not in ("architectures", TEXT, *PARTS)}
    types, tied = MULTIMODAL[architecture].text_types, "tie_word_embeddings"
    model_type = types[0] if entries is None else entries.text("model_type", types[0])
    if model_type not in types:
        raise UnsupportedModelError(
            f"config.json has {TEXT} with model_type {model_type!r}; of {architecture} jinfer runs text "
            f"models of {', '.join(types)}: use another model, or add it (docs/adding_a_model.md)"
        )
    return {
        **{name: value for name, value in text.items() if name != "architectures"},
        **{name: value for name, value in outside.items() if text.get(name) is None},
        "model_type": model_type,
        tied: next((each[tied] for each in (raw, text) if each.get(tied) is not None), True),
    }


def say_what_is_left_out(raw: Mapping[str, Any]) -> None:
    """Warns that the text model of a multimodal one is run alone."""
    parts = [part for name, part in PARTS.items() if raw.get(name) is not None]
    logger.warning(
        "%s is multimodal: its text model is run, and its %s left out; prompts are text alone",
        _architecture(raw),
        " and ".join(parts) + (" are" if len(parts) > 1 else " is") if parts else "other parts are",
    )


def _architecture(raw: Mapping[str, Any]) -> str | None:
    """The first of `architectures`, in the case of letters that `MULTIMODAL` has."""
    names = raw.get("architectures")
    first = names[0] if isinstance(names, list | tuple) and names else None
    by_letters = {name.lower(): name for name in MULTIMODAL}
    return by_letters.get(first.lower()) if isinstance(first, str) else None
