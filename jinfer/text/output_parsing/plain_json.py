"""JSON text as clients can take it, from and to values that a model wrote."""

import json
from typing import Any


def json_text(value: Any) -> str:
    """The JSON text of a value, with characters as they are; escaped if one of them is in no UTF-8.

    Raises ValueError for what is no JSON: NaN, an infinity, nesting beyond what Python's encoder takes."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return text if is_encodable(text) else json.dumps(value, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error


def json_value(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, NaN and infinities included."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("the JSON text is nested too deeply") from error


def is_encodable(text: str) -> bool:
    """False for text with a lone surrogate, which JSON's escapes can write."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
