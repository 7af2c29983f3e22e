"""The tools of a request: which are offered to the model, and which rules cannot be kept yet."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.server.json_body import bad_request

HONOURED_TOOL_CHOICES = (None, "auto", "none")


def offered_tools(
    tools: Sequence[Mapping[str, Any]] | None, tool_choice: Any
) -> list[Mapping[str, Any]] | None:
    """The tools of chat that the model may call; None where there are none. Raises ApiError for one that is
    malformed, or whose rules need a grammar."""
    if tool_choice not in HONOURED_TOOL_CHOICES:
        raise bad_request(
            "this tool_choice forces a call, which this version cannot; choose 'auto' or 'none'",
            param="tool_choice",
        )
    for index, tool in enumerate(tools or ()):
        _check_tool(tool, index)
    return list(tools) if tools and tool_choice != "none" else None


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
    if function.get("strict"):
        raise bad_request(
            f"tools[{index}] is strict, which this version cannot enforce; leave strict out", param="tools"
        )
