"""Parts of requests that a soak sends, and those whose answers never change. Plain Python."""

from collections.abc import Mapping
from typing import Any

PERSON: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "pet": {"enum": ["cat", "dog", "fox"]},
    },
    "required": ["name", "age", "pet"],
    "additionalProperties": False,
}
EXPRESSIONS = (r"(yes|no|maybe)", r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[A-Z][a-z]{3,30}\.")
GOLDEN_LENGTH = 40
STREAMED: Mapping[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

Body = Mapping[str, Any]


def golden_fields() -> tuple[Body, ...]:
    """Requests whose answers must be the same however often they are asked, and whatever runs beside them."""
    drawn = {"max_tokens": GOLDEN_LENGTH, "temperature": 1.0, "seed": 7}
    return (
        {"prompt": "Once upon a time", "max_tokens": GOLDEN_LENGTH, "temperature": 0},
        {"prompt": "The king said", **drawn},
        {"prompt": "The king said", **drawn, "seed": 8, "top_p": 0.9, "top_k": 20},
        {"prompt": "A bird", **drawn, "n": 2},
        {"prompt": "The fox", **drawn, "presence_penalty": 1.0, "repetition_penalty": 1.2},
        {"prompt": "His name:", **drawn, "structured_outputs": {"json": PERSON}},
        {"prompt": "They ran to the", **drawn, "stop": ["."]},
        {"prompt": [5, 6, 7], **drawn, "min_p": 0.05, "logit_bias": {"17": -5.0}},
    )
