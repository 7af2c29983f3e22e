"""Bodies of /v1/chat/completions."""

from typing import Any

import msgspec

from jinfer.server.protocol.prompt_logprobs import PromptLogprobsBody
from jinfer.server.protocol.sampling_fields import SamplingFields
from jinfer.server.protocol.usage import UsageBody


class ChatRequest(SamplingFields, kw_only=True):
    """A conversation, and how to answer it."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None

    chat_template: Any = None
    echo: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    add_special_tokens: Any = None


class ScoredToken(msgspec.Struct):
    """A token with its log probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(msgspec.Struct):
    """The token that was chosen, and the most likely ones there."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ScoredToken]


class ChatLogprobs(msgspec.Struct):
    """An entry for each token of the answer."""

    content: list[ChosenToken]


class ChatChoice(msgspec.Struct):
    """One answer."""

    index: int
    message: dict[str, Any]
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] | None = None


class ChatResponse(msgspec.Struct):
    """The answers to a conversation."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobsBody | None = None
    object: str = "chat.completion"
