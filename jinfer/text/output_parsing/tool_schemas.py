"""The types that a request's tools give to arguments, for formats that write arguments as bare text."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.text.output_parsing.plain_json import json_text, json_value
from jinfer.text.output_parsing.python_literals import read_literal

TYPE_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


class ToolSchemas:
    """The tools of a request, in the form of OpenAI's "tools". What is malformed in them types nothing."""

    def __init__(self, tools: Sequence[Any] = ()) -> None:
        self._parameters: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = tool.get("function", tool) if isinstance(tool, Mapping) else None
            if isinstance(function, Mapping) and isinstance(name := function.get("name"), str):
                self._parameters[name] = _mapping(function.get("parameters"))

    def types(self, tool: str, argument: str) -> set[str]:
        """The JSON types of an argument; none where the schema does not say."""
        parameters = self._parameters.get(tool, {})
        schema = _mapping(parameters.get("properties")).get(argument)
        return _types(schema, parameters, set())

    def typed(self, tool: str, argument: str, text: str) -> Any:
        """The value of an argument that is written as bare text.

        The text itself if the tool or the argument is unknown, if the schema allows a string, or if the text
        is no value of any type that it allows.
        """
        types = self.types(tool, argument)
        if not types or "string" in types:
            return text
        found = _as_boolean_or_null(text, types)
        return _as_json(text, types) if found is _NOTHING else found


_NOTHING = object()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _types(schema: Any, root: Mapping[str, Any], seen: set[int]) -> set[str]:
    """The types that a JSON schema allows; none where it does not say. References are to the root's own
    definitions. `seen` are the parts, by `id`, that count no more: each is read once."""
    schema = _mapping(schema)
    if id(schema) in seen:
        return set()
    seen.add(id(schema))
    if isinstance(reference := schema.get("$ref"), str):
        return _types(_referred(reference, root), root, seen)
    declared = schema.get("type")
    types = {name for name in [declared, *_list(declared)] if isinstance(name, str)}
    for key in ("anyOf", "oneOf", "allOf"):
        types |= {name for choice in _list(schema.get(key)) for name in _types(choice, root, seen)}
    if not types:
        values = [*_list(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
        types = {TYPE_NAMES.get(type(value), "null") for value in values}
    return types | ({"null"} if types and schema.get("nullable") is True else set())


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    value: Any = root
    for step in reference.removeprefix("#/").split("/"):
        value = _mapping(value).get(step)
    return value


def _as_boolean_or_null(text: str, types: set[str]) -> Any:
    word = text.strip().lower()
    if "boolean" in types and word in ("true", "false"):
        return word == "true"
    return None if "null" in types and word in ("null", "none") else _NOTHING


def _as_json(text: str, types: set[str]) -> Any:
    """The value as JSON, or as Python writes it, which models do with lists and dictionaries."""
    for read in (json_value, read_literal):
        try:
            value = read(text.strip())
            json_text(value)
        except (ValueError, OverflowError):
            continue
        if TYPE_NAMES.get(type(value)) in types - {"boolean"}:
            return value
        if "number" in types and type(value) is int:
            return value
        if "integer" in types and isinstance(value, float) and value.is_integer():
            return int(value)
    return text
