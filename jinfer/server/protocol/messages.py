"""Bodies of /v1/messages."""

from typing import Any

import msgspec

from jinfer.server.generation import Usage


class CountTokensRequest(msgspec.Struct, kw_only=True):
    """A conversation whose prompt is counted. Unknown fields are accepted and ignored."""

    model: str | None = None
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    """A conversation, and how to answer it."""

    max_tokens: int
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    output_format: Any = None
    output_config: dict[str, Any] | None = None


class CountTokensResponse(msgspec.Struct):
    """The tokens of a prompt."""

    input_tokens: int


class MessagesUsage(msgspec.Struct):
    """`usage` as Anthropic has it: `input_tokens` are those that were not in the prefix cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class MessageBody(msgspec.Struct, kw_only=True):
    """An answer."""

    id: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessagesUsage
    type: str = "message"
    role: str = "assistant"


def messages_usage(usage: Usage) -> MessagesUsage:
    """The counts of a generation so far."""
    return MessagesUsage(
        input_tokens=usage.num_prompt_tokens - usage.num_cached_tokens,
        output_tokens=usage.num_output_tokens,
        cache_read_input_tokens=usage.num_cached_tokens,
    )
