"""The count of tokens in an answer."""

import msgspec

from jinfer.server.generation import Usage


class PromptTokensDetails(msgspec.Struct):
    """The part of a prompt that was in the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct):
    """The part of the answers that is reasoning."""

    reasoning_tokens: int


class UsageBody(msgspec.Struct):
    """`usage` as OpenAI has it. With several prompts it is the sum over all."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | None = None


def usage_body(usage: Usage, *, num_reasoning_tokens: int | None = None) -> UsageBody:
    """The counts of a generation so far; those of reasoning where answers are read for it."""
    details = None if num_reasoning_tokens is None else CompletionTokensDetails(num_reasoning_tokens)
    return UsageBody(
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=usage.num_output_tokens,
        total_tokens=usage.num_prompt_tokens + usage.num_output_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.num_cached_tokens),
        completion_tokens_details=details,
    )
