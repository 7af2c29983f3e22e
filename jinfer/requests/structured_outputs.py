"""Structured outputs: the schema, the expression, the choice or the grammar that a text must fit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jinfer.errors import RequestError, shown
from jinfer.text.output_parsing.plain_json import json_text, json_value

MAX_GRAMMAR_BYTES = 256 * 1024
"""The UTF-8 text of a schema, an expression or a grammar, or of all choices together, has no more."""
MAX_CHOICES = 10_000
MAX_JSON_DEPTH = 64
"""Objects and lists within each other; llguidance reads 128, and wraps a schema into a few."""


@dataclass(frozen=True)
class StructuredOutputs:
    """The rule that an output fits: exactly one field is given.

    Raises RequestError for anything else, and for a value outside its own rule. Plain data. Whether a grammar
    can be kept is found out when it is compiled (text.grammar).
    """

    json: Mapping[str, Any] | str | None = None
    """A JSON schema, as an object or as its text: the output is a JSON text that fits it. Properties come in
    the schema's order, with at most eight characters of white space between two parts unless the schema says
    otherwise: {"x-guidance": {"whitespace_pattern": "..."}}."""
    json_object: bool = False
    """The output is any JSON object."""
    regex: str | None = None
    """The whole output matches this expression, in the syntax of Rust's regex without look-around."""
    choice: Sequence[str] | None = None
    """The output is one of these texts; 1 to 10,000."""
    grammar: str | None = None
    """A grammar in llguidance's dialect of Lark, whose rule `start` is the output; or its JSON list of
    grammars: {"grammars": [{"lark_grammar": "..."}, {"name": "...", "json_schema": {...}}]}."""
    structural_tag: Mapping[str, Any] | str | None = None
    """Free text in which a tag's text is followed by JSON: {"type": "structural_tag", "triggers":
    ["<function="], "structures": [{"begin": "<function=f>", "schema": {...}, "end": "</function>"}]}."""

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) not in (None, False)]
        if len(given) != 1:
            names = ", ".join(field.name for field in fields(self))
            raise RequestError(
                f"structured_outputs has {' and '.join(given) or 'nothing'}; give exactly one of {names}",
                param="structured_outputs",
            )
        checks: dict[str, Callable[[str, Any], object]] = {
            "json_object": _check_switch,
            "choice": _check_choice,
            "regex": _check_text,
        }
        checks |= {"grammar": _check_text, "json": json_object_of, "structural_tag": json_object_of}
        checks[given[0]](f"structured_outputs.{given[0]}", getattr(self, given[0]))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "StructuredOutputs":
        """The rule of a mapping, as JSON has it; an unknown name is an error that lists the known ones."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise RequestError(
                    f"structured_outputs has {shown(name)}; give exactly one of {', '.join(known)}",
                    param="structured_outputs",
                )
        return cls(**options)


def json_object_of(name: str, value: Any) -> dict[str, Any]:
    """A JSON object from a mapping or from its text, as plain data.

    Raises RequestError where it is none, has more than MAX_GRAMMAR_BYTES or is deeper than MAX_JSON_DEPTH.
    """
    if not isinstance(value, Mapping | str):
        raise RequestError(f"{name}={shown(value)} must be a JSON object, or the text of one")
    try:
        text = value if isinstance(value, str) else json_text(dict(value))
        _check_text(name, text)
        found = json_value(text)
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(f"{name}={shown(value)} is no JSON: {error}; correct it") from error
    if not isinstance(found, dict):
        raise RequestError(f"{name}={shown(value)} must be a JSON object")
    if _depth(found) > MAX_JSON_DEPTH:
        raise RequestError(
            f"{name} has objects and lists more than {MAX_JSON_DEPTH} deep within each other; flatten it, or "
            "define its parts once under $defs and refer to them"
        )
    return found


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        containers = [part for part in level if isinstance(part, dict | list)]
        level = [
            inner for part in containers for inner in (part.values() if isinstance(part, dict) else part)
        ]
        depth += bool(containers)
    return depth


def _check_switch(name: str, value: Any) -> None:
    if value is not True:
        raise RequestError(f"{name}={shown(value)} must be True or False")


def _check_choice(name: str, value: Any) -> None:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise RequestError(f"{name}={shown(value)} must be a list of strings")
    if not 1 <= len(value) <= MAX_CHOICES:
        raise RequestError(f"{name} has {len(value)} texts; give 1 to {MAX_CHOICES}")
    for text in value:
        _check_text(name, text)
    _check_size(name, sum(len(text.encode()) for text in value))


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise RequestError(f"{name}={shown(value)} must be a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise RequestError(f"{name}={shown(value)} is no valid Unicode: {error}; correct it") from error
    _check_size(name, size)


def _check_size(name: str, size: int) -> None:
    if size > MAX_GRAMMAR_BYTES:
        raise RequestError(f"{name} has {size} bytes; at most {MAX_GRAMMAR_BYTES} are allowed, shorten it")
