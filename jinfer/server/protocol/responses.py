"""Bodies of /v1/responses."""

from typing import Any

import msgspec

from jinfer.server.generation import Usage
from jinfer.server.protocol.sampling_fields import SamplingFields


class ResponsesRequest(SamplingFields, kw_only=True):
    """A conversation as items, and how to answer it. Nothing is stored, whatever `store` says."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    prompt: Any = None
    truncation: Any = None
    top_logprobs: Any = None
    max_tool_calls: Any = None


class InputTokensDetails(msgspec.Struct):
    """The part of the input that was in the prefix cache."""

    cached_tokens: int


class OutputTokensDetails(msgspec.Struct):
    """The part of the output that is reasoning."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """`usage` as the Responses API has it."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct):
    """The reason for which a response is incomplete."""

    reason: str


class ResponseError(msgspec.Struct):
    """The error with which a response failed."""

    code: str
    message: str


class ResponseBody(msgspec.Struct, kw_only=True):
    """A response: its items, and the fields of the request that clients read back."""

    id: str
    created_at: int
    model: str
    status: str
    output: list[dict[str, Any]]
    usage: ResponseUsage | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, Any]
    parallel_tool_calls: bool
    temperature: float | None = None
    top_p: float | None = None
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    reasoning: dict[str, Any] | None = None
    previous_response_id: str | None = None
    background: bool = False
    store: bool = False
    truncation: str = "disabled"
    object: str = "response"


def response_usage(usage: Usage, *, num_reasoning_tokens: int) -> ResponseUsage:
    """The counts of a generation so far."""
    return ResponseUsage(
        input_tokens=usage.num_prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.num_cached_tokens),
        output_tokens=usage.num_output_tokens,
        output_tokens_details=OutputTokensDetails(num_reasoning_tokens),
        total_tokens=usage.num_prompt_tokens + usage.num_output_tokens,
    )
