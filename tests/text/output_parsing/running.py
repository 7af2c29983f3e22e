"""Answers run through a parser."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate, count, pairwise
from typing import Any

from hypothesis import strategies as st

from jinfer.text.output_parsing.compiled_format import CompiledFormat
from jinfer.text.output_parsing.deltas import Delta, ParsedOutput, ToolCallArguments, join
from jinfer.text.output_parsing.formats import FORMATS
from jinfer.text.output_parsing.output_parser import OutputParser
from jinfer.text.output_parsing.response_format import ResponseFormat

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "limit": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "exact": {"type": "boolean"},
                "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "where": {"$ref": "#/$defs/Place"},
                "tags": {"type": "array"},
                "level": {"enum": [1, 2]},
            },
            "$defs": {"Place": {"type": "object"}},
        },
    },
}


@cache
def compiled_by_name(name: str) -> CompiledFormat:
    return CompiledFormat(FORMATS[name], ())


def compiled(response_format: ResponseFormat) -> CompiledFormat:
    """Known formats are compiled once."""
    is_known = FORMATS.get(response_format.name) is response_format
    return compiled_by_name(response_format.name) if is_known else CompiledFormat(response_format, ())


def parser(
    response_format: ResponseFormat, tools: Sequence[Any] | None = (WEATHER,), **options: Any
) -> OutputParser:
    numbers = count()
    return OutputParser(
        compiled(response_format), tools=tools, new_call_id=lambda: f"id{next(numbers)}", **options
    )


def deltas_of(response_format: ResponseFormat, pieces: Iterable[str], **options: Any) -> list[Delta]:
    running = parser(response_format, **options)
    deltas = [delta for piece in pieces for delta in running.feed([piece])]
    return [*deltas, *running.finish()]


def parse(response_format: ResponseFormat, text: str, **options: Any) -> ParsedOutput:
    return join(deltas_of(response_format, [text], **options))


def calls(output: ParsedOutput) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in output.tool_calls]


def arguments_so_far(deltas: Sequence[Delta]) -> Iterator[tuple[int, str]]:
    texts: dict[int, str] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallArguments):
            texts[delta.index] = texts.get(delta.index, "") + delta.text
            yield delta.index, texts[delta.index]


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, some of them empty."""
    sizes = draw(st.lists(st.integers(0, 8), min_size=1, max_size=12))
    ends = list(accumulate(sizes, initial=0))
    pieces = [text[start:end] for start, end in pairwise(ends)]
    return [*pieces, text[ends[-1] :]]
