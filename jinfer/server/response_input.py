"""The items of /v1/responses as messages of chat."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.server.errors import ApiError
from jinfer.server.json_body import bad_request

TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


def input_messages(
    instructions: str | None, items: str | Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The conversation: the instructions first, and what an assistant did in a row as one message. Raises
    ApiError for an item that is malformed or of a type that this server does not have."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for index, item in enumerate(items):
        _add(messages, item, f"input[{index}]")
    return messages


def response_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The functions among the tools, in the form of chat. Tools that only OpenAI's servers have are left
    out: clients offer them to every server."""
    return [
        {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
        for tool in tools or ()
        if tool.get("type") == "function"
    ]


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], place: str) -> None:
    kind = item.get("type", "message")
    if kind == "message" and item.get("role") == "assistant":
        message = _assistant(messages)
        message["content"] = (message["content"] or "") + _text(item.get("content"), place)
    elif kind == "message":
        _add_message(messages, item, place)
    elif kind == "reasoning":
        text = _text(item.get("content") or item.get("summary") or "", place)
        message = _assistant(messages)
        message["reasoning"] = message.get("reasoning", "") + text
    elif kind == "function_call":
        _assistant(messages).setdefault("tool_calls", []).append(_call(item, place))
    elif kind == "function_call_output":
        result = {"role": "tool", "tool_call_id": _required(item, "call_id", place)}
        messages.append({**result, "content": _text(item.get("output"), place)})
    else:
        raise _refused(f"{place} has the type {str(kind)[:100]!r}, which this server does not have")


def _add_message(messages: list[dict[str, Any]], item: Mapping[str, Any], place: str) -> None:
    """Adds a message of somebody else. Instructions that come first are one, as most templates want."""
    role = _required(item, "role", place)
    text = _text(item.get("content"), place)
    if role in ("system", "developer"):
        if len(messages) == 1 and messages[0]["role"] == "system":
            messages[0]["content"] += "\n\n" + text
            return
        role = "system"
    messages.append({"role": role, "content": text})


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message at the end, begun if it is not there."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _call(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    function = {"name": _required(item, "name", place), "arguments": _required(item, "arguments", place)}
    return {"id": _required(item, "call_id", place), "type": "function", "function": function}


def _text(content: Any, place: str) -> str:
    """The text of a content, which is text or parts of it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _refused(f"{place} has no text; give a string, or a list of parts with a text each")
    return "".join(_part_text(part, place) for part in content)


def _part_text(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, Mapping) else None
    if kind not in (*TEXT_PARTS, "refusal") or not isinstance(text, str):
        raise _refused(f"{place} has a part of the type {str(kind)[:100]!r}; this model reads text alone")
    return text


def _required(item: Mapping[str, Any], name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise _refused(f"{place} has no {name}; give it as a string")
    return value


def _refused(message: str) -> ApiError:
    return bad_request(message, param="input")
