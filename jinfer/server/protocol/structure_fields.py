"""The fields that ask for a structure of the answer, of which a request has one."""

from collections.abc import Mapping
from typing import Any

import msgspec

from jinfer.errors import RequestError, shown
from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.server.json_body import bad_request

GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""Older names of vLLM's structured_outputs."""


class StructureFields(msgspec.Struct, kw_only=True):
    """OpenAI's field, vLLM's, and vLLM's older ones."""

    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


def structure_of(fields: StructureFields, other: StructuredOutputs | None) -> StructuredOutputs | None:
    """The structure that a request asks for, `other` being that of a field which its endpoint alone has.

    Raises ApiError for a second one, and RequestError for what is malformed, which names its field.
    """
    found: dict[str, StructuredOutputs] = {} if other is None else {"format": other}
    for name in ("response_format", "structured_outputs", *GUIDED):
        structure = _structure(name, getattr(fields, name))
        if structure is not None:
            found[name] = structure
    if len(found) > 1:
        raise bad_request(
            f"{' and '.join(found)} each ask for a structure of the answer; give one of them",
            param=next(iter(found)),
        )
    return next(iter(found.values()), None)


def format_structure(param: str, wanted: Mapping[str, Any] | None) -> StructuredOutputs | None:
    """The structure of a `format` in any of its forms; None for text, and where there is none.

    {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {...}}} as chat has it, or with
    the schema beside the type, as /v1/responses and /v1/messages have it, and {"type": "structural_tag",
    ...}. A schema is kept whether it is strict or not. Raises RequestError, which names `param`.
    """
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputs(json_object=True)
    if kind == "structural_tag":
        return _made(param, structural_tag=dict(wanted))
    if kind != "json_schema":
        raise bad_request(
            f"{param}.type={shown(kind)} must be text, json_object, json_schema or structural_tag",
            param=param,
        )
    holder = wanted.get("json_schema", wanted)
    schema = holder.get("schema") if isinstance(holder, Mapping) else None
    if not isinstance(schema, Mapping):
        raise bad_request(f"{param} has no schema; give it as a JSON object", param=param)
    return _made(param, json=schema)


def _structure(name: str, value: Any) -> StructuredOutputs | None:
    if value is None:
        return None
    if name == "response_format":
        return format_structure(name, value)
    if name != "structured_outputs":
        return _made(name, **{name.removeprefix("guided_"): value})
    given = {key: each for key, each in value.items() if each not in (None, False)}
    return _made(name, **given) if given else None


def _made(param: str, **options: Any) -> StructuredOutputs:
    try:
        return StructuredOutputs.from_options(options)
    except RequestError as error:
        raise RequestError(str(error), param=param) from error
