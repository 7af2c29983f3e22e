"""Reads a response template of transformers, version 1, as a response format.

The schema is that of transformers' "Response Parsing" page (docs/source/en/chat_response_parsing.md):

    version                            1
    defaults                           not used: they are for a message as a dictionary
    start_anchor(_pattern)             what begins the assistant's message in a prompt
    fields                             by name: thinking, reasoning or reasoning_content; content; tool_calls
        open, close                    a text or several; open_pattern, close_pattern: a regular expression.
                                       The one field without an opening has the text between the others
        content, content_args          how the text is read (see template_values)
        transform, transform_each      how that becomes a message's entry
        repeats, join                  `join` comes between the texts of a field
        optional                       not used: an answer without the field is an answer too

What differs: all text of a kind is joined, where transformers keeps the last. White space is stripped beside
markers, and not at the ends of the answer. Calls that cannot be read are content.
"""

from collections.abc import Mapping
from typing import Any

from jinfer.text.output_parsing.pattern_search import compiled_pattern
from jinfer.text.output_parsing.response_format import (
    CallSyntax,
    HeadedJsonCall,
    JsonCalls,
    Marker,
    Region,
    ResponseFormat,
    TemplateCalls,
    TextKind,
)
from jinfer.text.output_parsing.template_values import CONTENT_PARSERS

NAME = "response_template"
KINDS = {
    **dict.fromkeys(("thinking", "reasoning", "reasoning_content"), TextKind.REASONING),
    "content": TextKind.CONTENT,
    "tool_calls": TextKind.TOOL_CALLS,
}
END_OF_ANSWER = ("$", r"\Z", r"\z")
TEMPLATE_KEYS = {"version", "defaults", "start_anchor", "start_anchor_pattern", "fields"}
FIELD_KEYS = {
    *("open", "open_pattern", "close", "close_pattern", "content", "content_args"),
    *("repeats", "join", "optional", "transform", "transform_each"),
}
WHOLE_CALL = ({"type": "function", "function": "{content}"}, {"function": "{content}"})
CALL_WITH_NAME = {"name": "{name}", "arguments": "{content}"}


def read_response_template(template: Any) -> ResponseFormat:
    """The format. Raises ValueError, which names the part at fault, for what is malformed or not
    supported."""
    template = _entries(template, "response_template", TEMPLATE_KEYS)
    if (version := template.get("version", 1)) != 1:
        raise ValueError(f"response_template has the version {version!r}; 1 is supported")
    fields = template.get("fields")
    if not isinstance(fields, Mapping) or not fields:
        raise ValueError("response_template has no fields; there must be one")
    anchor = _marker(template, "start_anchor", "response_template")
    if anchor is None:
        raise ValueError("response_template has no start_anchor; there must be one")
    read = {name: _field(name, field) for name, field in fields.items()}
    leftover = [name for name, region in read.items() if region is None]
    if len(leftover) > 1 or any(KINDS[name] is not TextKind.CONTENT for name in leftover):
        raise ValueError(f"the fields {', '.join(leftover)} have no opening; only content may have none")
    return ResponseFormat(
        name=NAME,
        regions=tuple(region for region in read.values() if region is not None),
        anchors=(anchor,),
        ignored=tuple(_closings(fields[name], name) for name in leftover if _closes(fields[name])),
        has_leftover=bool(leftover),
        is_leftover_stripped=all(_is_stripped(fields[name]) for name in leftover),
    )


def _entries(value: Any, what: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is a {type(value).__name__}; it must be an object")
    if unknown := sorted(map(str, value.keys() - known)):
        raise ValueError(f"{what} has the unknown keys {', '.join(unknown)}; remove them")
    return value


def _field(name: str, field: Any) -> Region | None:
    """The region of a field; None for the one that has the text between the others."""
    what = f"the field {name!r}"
    if name not in KINDS:
        raise ValueError(f"{what} is none of {', '.join(KINDS)}, and nothing else is in an answer; remove it")
    field = _entries(field, what, FIELD_KEYS)
    kind = KINDS[name]
    calls = _calls(field, what) if kind is TextKind.TOOL_CALLS else None
    if calls is None and (field.get("content", "text") != "text" or "transform" in field):
        raise ValueError(f"{what} is read as {field.get('content')!r}; it is plain text")
    opening = _marker(field, "open", what)
    if opening is None:
        return None
    join = field.get("join", "\n")
    if not isinstance(join, str):
        raise ValueError(f"{what} has the join {join!r}; it must be a string")
    close = _closings(field, what) if _closes(field) else None
    return Region(kind, opening, close, calls, is_stripped=_is_stripped(field), join=join)


def _is_stripped(field: Mapping[str, Any]) -> bool:
    return bool(field.get("content_args", {}).get("strip", True))


def _closes(field: Mapping[str, Any]) -> bool:
    """False for a field that ends with the answer."""
    return "close" in field or field.get("close_pattern", "$") not in END_OF_ANSWER


def _closings(field: Mapping[str, Any], what: str) -> Marker:
    marker = _marker(field, "close", what)
    assert marker is not None
    return marker


def _marker(entries: Mapping[str, Any], key: str, what: str) -> Marker | None:
    texts, pattern = entries.get(key), entries.get(f"{key}_pattern")
    if texts is None and pattern is None:
        return None
    if texts is not None and pattern is not None:
        raise ValueError(f"{what} has both {key} and {key}_pattern; leave one out")
    if pattern is not None:
        if not isinstance(pattern, str):
            raise ValueError(f"{what} has the {key}_pattern {pattern!r}; it must be a string")
        compiled_pattern(pattern)
        return Marker(pattern=pattern)
    listed = texts if isinstance(texts, list) else [texts]
    if not listed or not all(isinstance(text, str) and text for text in listed):
        raise ValueError(f"{what} has the {key} {texts!r}; it must be a text, or a list of some")
    return Marker(tuple(map(str, listed)))


def _calls(field: Mapping[str, Any], what: str) -> CallSyntax:
    """The syntax of the calls; one that passes JSON on as it comes, where the template amounts to that."""
    content, arguments = field.get("content", "text"), field.get("content_args", {})
    _check_content(content, arguments, what)
    transform, is_each = field.get("transform"), bool(field.get("transform_each", False))
    if content == "json" and not arguments and not is_each:
        if transform in WHOLE_CALL:
            return JsonCalls()
        if isinstance(transform, Mapping) and transform.get("function") == CALL_WITH_NAME:
            return HeadedJsonCall()
    return TemplateCalls(content, arguments, transform, is_each)


def _check_content(content: Any, arguments: Any, what: str) -> None:
    if content not in CONTENT_PARSERS:
        raise ValueError(f"{what} has the content {content!r}; it is one of {', '.join(CONTENT_PARSERS)}")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{what} has the content_args {arguments!r}; they must be an object")
    if content == "xml-inline":
        pattern = arguments.get("tag_pattern")
        if not isinstance(pattern, str):
            raise ValueError(f"{what} has the tag_pattern {pattern!r}; it must be a string")
        compiled_pattern(pattern)
    delimiters = arguments.get("string_delims", [])
    if not isinstance(delimiters, list) or not all(map(_is_pair, delimiters)):
        raise ValueError(f"{what} has the string_delims {delimiters!r}; they are pairs of texts")
    if (inner := arguments.get("value_parser")) is not None:
        inner = _entries(inner, f"the value_parser of {what}", {"name", "args"})
        _check_content(inner.get("name", "text"), inner.get("args", {}), what)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) and part for part in value)
    )
