"""Copies of a caller's values that are made of JSON's types alone."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from jinfer.errors import RequestError


def plain(value: Any, where: str) -> Any:
    """A copy made of None, str, int, float, bool, dict, list and tuple: any other object's methods would be
    the template's to call.

    Subclasses (enums of strings, named tuples, ordered dictionaries) become what they are subclasses of, as
    json.dumps writes them; scalars of NumPy, dataclasses and objects with model_dump (pydantic's) become
    their values, as transformers 5 renders them. Raises RequestError for anything else; `where` names the
    value in the message.
    """
    if isinstance(value, Mapping):
        return {_plain_key(key, where): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, tuple):
        return tuple(plain(item, f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return plain(fields, where)
    if not isinstance(value, type) and callable(dump := getattr(value, "model_dump", None)):
        return plain(dump(), where)
    return _plain_scalar(value, where)


def _plain_key(key: Any, where: str) -> Any:
    return _plain_scalar(key, f"a key of {where}")


def _plain_scalar(value: Any, where: str) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    # The base class's own conversion: a subclass may have replaced it, as enums replace __str__.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    numpy = sys.modules.get("numpy")  # not imported for this: where nobody has, no value is of it
    if numpy is not None and isinstance(value, numpy.generic):
        item = value.item()
        if type(item) in (str, int, float, bool):
            return item
    raise RequestError(
        f"{where} is a {type(value).__name__}, and a chat template takes only what JSON can hold; convert "
        "it to a string, number, list or dict"
    )
