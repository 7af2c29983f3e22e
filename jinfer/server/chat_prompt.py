"""Conversations to prompts, by the model's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.requests.prompts import Prompt
from jinfer.server.generation_service import GenerationService
from jinfer.server.json_body import bad_request
from jinfer.server.limits import ServerLimits
from jinfer.server.template_messages import template_messages

OWN_OPTIONS = ("tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template")
"""Options of the template that are fields of the request, or nobody's, and no keywords."""


async def chat_prompt(
    service: GenerationService,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    documents: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool | None,
    continue_final_message: bool,
    template_kwargs: Mapping[str, Any],
) -> Prompt:
    """The prompt of a conversation. Raises RequestError for messages that are malformed or that the template
    refuses, and TokenizerError where the model has no template."""
    _check(messages, tools, template_kwargs, service.limits)
    token_ids = await service.templates.token_ids(
        template_messages(messages),
        tools=tools,
        documents=documents,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        **template_kwargs,
    )
    return Prompt(token_ids=tuple(token_ids))


def _check(
    messages: Sequence[Any],
    tools: Sequence[Any] | None,
    template_kwargs: Mapping[str, Any],
    limits: ServerLimits,
) -> None:
    if len(messages) > limits.max_messages:
        raise bad_request(
            f"{len(messages)} messages, and max_messages={limits.max_messages}; send fewer", param="messages"
        )
    if tools is not None and len(tools) > limits.max_tools:
        raise bad_request(f"{len(tools)} tools, and max_tools={limits.max_tools}; send fewer", param="tools")
    for name in OWN_OPTIONS:
        if name in template_kwargs:
            raise bad_request(
                f"chat_template_kwargs has {name!r}, which is no variable of a template; leave it out",
                param="chat_template_kwargs",
            )
