"""The parts of an answer: what a parser gives out while the text comes, and what they add up to."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins. `index` counts the calls of the answer from 0; the name comes here and no more."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


Delta = ReasoningDelta | ContentDelta | ToolCallStart | ToolCallArguments


@dataclass(frozen=True)
class ToolCall:
    """One call. `arguments` is the JSON text that the model wrote or stood for: not always valid JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ParsedOutput:
    """A whole answer. None for reasoning or content that the model did not write."""

    reasoning: str | None
    content: str | None
    tool_calls: tuple[ToolCall, ...]


def join(deltas: Iterable[Delta]) -> ParsedOutput:
    """The answer that the deltas add up to, as a client joins them."""
    texts: dict[type[Delta], str] = {}
    starts: list[ToolCallStart] = []
    arguments: list[str] = []
    for delta in deltas:
        if isinstance(delta, ToolCallStart):
            starts.append(delta)
            arguments.append("")
        elif isinstance(delta, ToolCallArguments):
            arguments[delta.index] += delta.text
        else:
            texts[type(delta)] = texts.get(type(delta), "") + delta.text
    calls = zip(starts, arguments, strict=True)
    return ParsedOutput(
        reasoning=texts.get(ReasoningDelta),
        content=texts.get(ContentDelta),
        tool_calls=tuple(ToolCall(id=start.id, name=start.name, arguments=text) for start, text in calls),
    )
