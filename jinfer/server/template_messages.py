"""Messages as clients send them, in the form that chat templates read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the names and types that Hugging Face's templates have.

    The role developer is system. Reasoning is under `reasoning_content`, whichever of the two names it came
    with. Arguments of calls are objects where their text is one, and else stay as they are: one call that a
    model wrote badly must not end the conversation.
    """
    return [_template_message(message) for message in messages]


def _template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    message = dict(message)
    if message.get("role") == "developer":
        message["role"] = "system"
    if isinstance(reasoning := message.get("reasoning"), str):
        message.setdefault("reasoning_content", reasoning)
    if isinstance(calls := message.get("tool_calls"), list):
        message["tool_calls"] = list(map(_with_object, calls))
    return message


def _with_object(call: Any) -> Any:
    """A call whose arguments are an object, if they can be one."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(text := function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if type(arguments) is dict else call
