"""The parts of an answer in the form of OpenAI's chat: deltas of a stream, or one message."""

from collections.abc import Sequence
from typing import Any

from jinfer.text.output_parsing.deltas import (
    ContentDelta,
    Delta,
    ParsedOutput,
    ReasoningDelta,
    ToolCall,
    ToolCallStart,
)


def delta_body(delta: Delta, *, reasoning_fields: Sequence[str]) -> dict[str, Any]:
    """`delta` of a chunk. A call begins with its id and name, which clients join and so come once."""
    if isinstance(delta, ContentDelta):
        return {"content": delta.text}
    if isinstance(delta, ReasoningDelta):
        return dict.fromkeys(reasoning_fields, delta.text)
    if isinstance(delta, ToolCallStart):
        function = {"name": delta.name, "arguments": ""}
        return _call({"index": delta.index, "id": delta.id, "type": "function", "function": function})
    return _call({"index": delta.index, "function": {"arguments": delta.text}})


def role_body(*, has_tools: bool) -> dict[str, Any]:
    """`delta` of the first chunk. Where there may be calls, an answer may have no content."""
    return {"role": "assistant", "content": None if has_tools else ""}


def message_body(output: ParsedOutput, *, has_tools: bool, reasoning_fields: Sequence[str]) -> dict[str, Any]:
    """The message that a client joins of the chunks."""
    message = role_body(has_tools=has_tools)
    if output.content is not None:
        message["content"] = output.content
    if output.reasoning is not None:
        message |= dict.fromkeys(reasoning_fields, output.reasoning)
    if output.tool_calls:
        message["tool_calls"] = list(map(_call_body, output.tool_calls))
    return message


def _call(body: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [body]}


def _call_body(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
