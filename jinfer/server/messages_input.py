"""The bodies of /v1/messages as messages and tools of chat."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.server.errors import ApiError
from jinfer.server.json_body import bad_request

Blocks = str | Sequence[Mapping[str, Any]]
TOOL_CHOICES = {"auto": "auto", "none": "none", "any": "required"}


def chat_messages(system: Blocks | None, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation. Raises ApiError for a block that is malformed or no text."""
    chat: list[dict[str, Any]] = []
    if system:
        chat.append({"role": "system", "content": _text(system, "system")})
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        content = message.get("content")
        if message.get("role") == "assistant":
            chat.append(_assistant(content, place))
        elif message.get("role") in ("user", "system"):
            chat += _others(message["role"], content, place)
        else:
            raise _refused(f"{place} has the role {str(message.get('role'))[:100]!r}; give user or assistant")
    return chat


def chat_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """The client's own tools in the form of chat. Those that Anthropic defines are left out."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.get("name"),
                "description": tool.get("description") or "",
                "parameters": tool.get("input_schema") or {"type": "object"},
                **({"strict": True} if tool.get("strict") else {}),
            },
        }
        for tool in tools or ()
        if tool.get("type") in (None, "custom")
    ]


def chat_tool_choice(choice: Mapping[str, Any] | None) -> Any:
    """`tool_choice` as chat has it, and whatever else it is as it is."""
    kind = (choice or {}).get("type", "auto")
    if kind == "tool" and choice is not None:
        return {"type": "function", "function": {"name": choice.get("name")}}
    return TOOL_CHOICES.get(kind, choice) if isinstance(kind, str) else choice


def _others(role: str, content: Any, place: str) -> list[dict[str, Any]]:
    """The results of tools, each a message of its own, and then what was said."""
    results, said = [], []
    for block in _blocks(content, place):
        if block.get("type") == "tool_result":
            text = _text(block.get("content") or "", place)
            call_id = _required(block, "tool_use_id", place)
            results.append({"role": "tool", "tool_call_id": call_id, "content": text})
        else:
            said.append(_block_text(block, place))
    return [*results, {"role": role, "content": "".join(said)}] if said or not results else results


def _assistant(content: Any, place: str) -> dict[str, Any]:
    texts: dict[str, str] = {}
    calls = []
    for block in _blocks(content, place):
        kind = block.get("type")
        if kind == "tool_use":
            calls.append(_call(block, place))
        elif kind == "thinking":
            texts["reasoning"] = texts.get("reasoning", "") + _required(block, "thinking", place)
        elif kind != "redacted_thinking":
            texts["content"] = texts.get("content", "") + _block_text(block, place)
    message = {"role": "assistant", "content": None, **texts}
    return {**message, "tool_calls": calls} if calls else message


def _call(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    function = {"name": _required(block, "name", place), "arguments": block.get("input") or {}}
    return {"id": _required(block, "id", place), "type": "function", "function": function}


def _blocks(content: Any, place: str) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, Mapping) for block in content):
        raise _refused(f"{place} has no content; give a string, or a list of blocks")
    return content


def _text(content: Any, place: str) -> str:
    return "".join(_block_text(block, place) for block in _blocks(content, place))


def _block_text(block: Mapping[str, Any], place: str) -> str:
    if block.get("type") != "text":
        kind = str(block.get("type"))[:100]
        raise _refused(f"{place} has a block of the type {kind!r}; this model reads text alone")
    return _required(block, "text", place)


def _required(block: Mapping[str, Any], name: str, place: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise _refused(f"{place} has a block without {name}; give it as a string")
    return value


def _refused(message: str) -> ApiError:
    return bad_request(message, param="messages")
