"""The tools of a request: those that are offered to the model, and how it may call them."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.errors import shown
from jinfer.server.errors import ApiError
from jinfer.server.json_body import bad_request
from jinfer.text.grammar.tool_calls import ToolChoice

WORDS = (None, "auto", "none", "required")


def offered_tools(
    tools: Sequence[Mapping[str, Any]] | None, tool_choice: Any
) -> list[Mapping[str, Any]] | None:
    """The tools of chat that the model may call; None where there are none. Raises ApiError for one that is
    malformed."""
    for index, tool in enumerate(tools or ()):
        _check_tool(tool, index)
    return list(tools) if tools and tool_choice != "none" else None


def asked_choice(
    tool_choice: Any, tools: Sequence[Mapping[str, Any]] | None, *, allows_parallel: bool | None
) -> ToolChoice:
    """The meaning of `tool_choice`, a word or the function to call in the form of chat or of responses.
    `tools` are those that are offered. Raises ApiError for another form, and for a call of no tool."""
    is_parallel = allows_parallel is not False
    if isinstance(tool_choice, Mapping):
        name = _chosen_name(tool_choice)
        if not any(tool["function"]["name"] == name for tool in tools or ()):
            raise _bad_choice(f"tool_choice asks for a call of {shown(name)}, which is none of the tools")
        return ToolChoice(name=name, is_parallel=is_parallel)
    if tool_choice not in WORDS:
        raise _bad_choice(f"tool_choice={shown(tool_choice)} is not known")
    if tool_choice == "required" and not tools:
        raise _bad_choice("tool_choice requires a call, and there are no tools")
    return ToolChoice(is_required=tool_choice == "required", is_parallel=is_parallel)


def _chosen_name(tool_choice: Mapping[str, Any]) -> Any:
    if tool_choice.get("type") != "function":
        raise _bad_choice(f"tool_choice has the type {shown(tool_choice.get('type'))}")
    holder = tool_choice.get("function", tool_choice)
    return holder.get("name") if isinstance(holder, Mapping) else None


def _bad_choice(message: str) -> ApiError:
    return bad_request(
        f"{message}; give 'auto', 'none', 'required' or "
        '{"type": "function", "function": {"name": ...}} with the name of a tool',
        param="tool_choice",
    )


def _check_tool(tool: Mapping[str, Any], index: int) -> None:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise bad_request(
            f"tools[{index}] is no function; give "
            '{"type": "function", "function": {"name": ..., "parameters": ...}}',
            param="tools",
        )
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise bad_request(f"tools[{index}] has no name; give function.name", param="tools")
