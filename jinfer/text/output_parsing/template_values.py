"""The content parsers and transforms of transformers' response templates, version 1.

The schema is that of transformers' "Response Parsing" page (docs/source/en/chat_response_parsing.md). Values
come from a model's words: whatever does not fit raises ValueError, LookupError or TypeError.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinfer.text.output_parsing.pattern_search import find_all
from jinfer.text.output_parsing.plain_json import json_text, json_value
from jinfer.text.output_parsing.python_literals import read_calls

Arguments = Mapping[str, Any]

PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")
STRING_OR_KEY = re.compile(r'("(?:\\.|[^"\\])*")|([{,]\s*)(\w+)(\s*:)', re.DOTALL)


def content_value(parser: str, text: str, arguments: Arguments) -> Any:
    """The value of a region's text by the content parser of that name."""
    return CONTENT_PARSERS[parser](text, arguments)


def transformed(transform: Any, scope: Mapping[str, Any]) -> Any:
    """A transform with each string "{name}" or "{name.key}" in it replaced by that value of the scope."""
    if isinstance(transform, Mapping):
        return {key: transformed(value, scope) for key, value in transform.items()}
    if isinstance(transform, list):
        return [transformed(value, scope) for value in transform]
    match = PLACEHOLDER.fullmatch(transform) if isinstance(transform, str) else None
    if match is None:
        return transform
    value: Any = scope
    for key in match.group(1).split("."):
        value = value[key]
    return value


def _text(text: str, arguments: Arguments) -> str:
    return text.strip() if arguments.get("strip", True) else text


def _bool(text: str, arguments: Arguments) -> bool:
    return text.strip().lower() in ("true", "1")


def _json(text: str, arguments: Arguments) -> Any:
    try:
        return json_value(_as_usual_json(text, arguments))
    except ValueError:
        if arguments.get("allow_non_json"):
            return text.strip()
        raise


def _as_usual_json(text: str, arguments: Arguments) -> str:
    """Text in which strings have quotes, and keys too."""
    pieces = _split_strings(text, arguments.get("string_delims", []))
    if not arguments.get("unquoted_keys", False):
        return "".join(pieces)
    # An even piece is text between strings that were delimited otherwise.
    return "".join(
        piece if index % 2 else STRING_OR_KEY.sub(_with_quotes, piece) for index, piece in enumerate(pieces)
    )


def _with_quotes(match: re.Match[str]) -> str:
    string, before, key, after = match.groups()
    return string if string is not None else f'{before}"{key}"{after}'


def _split_strings(text: str, delimiters: list[list[str]]) -> list[str]:
    """Text and, at odd places, the strings in it that have special delimiters, as JSON."""
    pieces = []
    at = 0
    while found := _first_delimited(text, at, delimiters):
        start, inside, end, behind = found
        pieces += [text[at:start], json_text(text[inside:end])]
        at = behind
    return [*pieces, text[at:]]


def _first_delimited(text: str, at: int, delimiters: list[list[str]]) -> tuple[int, int, int, int] | None:
    found = []
    for begin, end in delimiters:
        start = text.find(begin, at)
        stop = text.find(end, start + len(begin)) if start >= 0 else -1
        if stop >= 0:
            found.append((start, start + len(begin), stop, stop + len(end)))
    return min(found, default=None)


def _xml_inline(text: str, arguments: Arguments) -> dict[str, Any]:
    values: dict[str, Any] = {}
    merged: set[str] = set()
    for groups in find_all(arguments["tag_pattern"], text):
        key, value = groups["key"], _inner(groups.get("value", ""), arguments)
        if key in values and arguments.get("merge_duplicates", False):
            values[key] = [*(values[key] if key in merged else [values[key]]), value]
            merged.add(key)
        else:
            values[key] = value
    return values


def _kv_lines(text: str, arguments: Arguments) -> dict[str, Any]:
    values = {}
    separator = arguments.get("kv_sep", ":")
    for line in text.split(arguments.get("line_sep", "\n")):
        key, found, value = _text(line, arguments).partition(separator)
        if found:
            values[_text(key, arguments)] = _inner(_text(value, arguments), arguments)
    return values


def _inner(text: str, arguments: Arguments) -> Any:
    parser = arguments.get("value_parser")
    return text if parser is None else content_value(parser.get("name", "text"), text, parser.get("args", {}))


def _python_call_list(text: str, arguments: Arguments) -> list[dict[str, Any]]:
    return [call._asdict() for call in read_calls(text)]


CONTENT_PARSERS: dict[str, Callable[[str, Arguments], Any]] = {
    "text": _text,
    "int": lambda text, _: int(text),
    "float": lambda text, _: float(text),
    "bool": _bool,
    "json": _json,
    "xml-inline": _xml_inline,
    "kv-lines": _kv_lines,
    "python-call-list": _python_call_list,
}
