"""The seam between a model's text and the message that chat shows: reasoning, content and tool calls."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

MessageDelta = Mapping[str, Any]
"""A `delta` as OpenAI has it: any of content, reasoning and tool_calls."""


class MessageParser(Protocol):
    """Reads the pieces of one choice in order. All of a message is the join of its deltas."""

    @property
    def has_tool_calls(self) -> bool:
        """True once a call began, so that the choice ends with finish_reason tool_calls."""

    def feed(self, text: str, token_ids: Sequence[int]) -> Sequence[MessageDelta]:
        """The deltas that are certain with a piece. Special tokens show in the ids though the text lacks
        them."""

    def finish(self) -> Sequence[MessageDelta]:
        """The deltas of what was held back."""


class PlainMessageParser:
    """All text is content."""

    has_tool_calls = False

    def feed(self, text: str, token_ids: Sequence[int]) -> Sequence[MessageDelta]:
        """The text as content."""
        return ({"content": text},)

    def finish(self) -> Sequence[MessageDelta]:
        """Nothing, for nothing is held back."""
        return ()


def joined(deltas: Sequence[MessageDelta]) -> dict[str, Any]:
    """The message that deltas add up to, as a client joins them."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for name in ("content", "reasoning"):
            if delta.get(name) is not None:
                message[name] = (message.get(name) or "") + delta[name]
        for call in delta.get("tool_calls", ()):
            _join_call(calls, call)
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


def _join_call(calls: dict[int, dict[str, Any]], delta: Mapping[str, Any]) -> None:
    """Adds a part of a call: the first has id, type and name, the others more of the arguments."""
    index = delta["index"]
    if index not in calls:
        calls[index] = {"id": delta["id"], "type": "function", "function": {**delta["function"]}}
    else:
        calls[index]["function"]["arguments"] += delta["function"]["arguments"]
