"""Bodies of /v1/completions."""

from typing import Any

import msgspec

from jinfer.server.protocol.prompt_logprobs import PromptLogprobsBody
from jinfer.server.protocol.sampling_fields import SamplingFields
from jinfer.server.protocol.usage import UsageBody

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(SamplingFields, kw_only=True):
    """A prompt is a text or a list of token ids; several are a list of either."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    suffix: str | None = None
    prompt_embeds: Any = None


class CompletionLogprobs(msgspec.Struct):
    """Lists with an entry for each token, those of an echoed prompt first. Nothing comes before the first
    token of a prompt, so that its log probability is null."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(msgspec.Struct):
    """One completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobsBody | None = None


class CompletionResponse(msgspec.Struct):
    """The completions of all prompts."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody
    object: str = "text_completion"
