"""/v1/messages and /v1/messages/count_tokens, as Anthropic's API has them."""

from typing import Any

from fastapi import APIRouter, Request, Response

from jinfer.requests.prompts import Prompt
from jinfer.requests.sampling_params import SamplingParams
from jinfer.server.api import Api
from jinfer.server.chat_prompt import chat_prompt
from jinfer.server.error_shapes import AnthropicErrorBody
from jinfer.server.json_body import bad_request
from jinfer.server.messages_input import chat_messages, chat_tool_choice, chat_tools
from jinfer.server.messages_writer import MessagesWriter
from jinfer.server.openapi import operation
from jinfer.server.protocol.messages import (
    CountTokensRequest,
    CountTokensResponse,
    MessageBody,
    MessagesRequest,
)
from jinfer.server.protocol.structure_fields import format_structure
from jinfer.server.streaming import json_response, stream
from jinfer.server.tools import asked_choice, offered_tools

PATH = "/v1/messages"


def messages_router(api: Api) -> APIRouter:
    """The endpoints that answer conversations of blocks, and count their tokens."""
    router = APIRouter()

    @router.post(PATH, **operation(MessageBody, body=MessagesRequest, streams=True, error=AnthropicErrorBody))
    async def message(request: Request) -> Response:
        body = await api.read(request, MessagesRequest)
        model = api.models.chosen(body.model)
        params = _params(body)
        tools = _tools(body)
        is_single = bool((body.tool_choice or {}).get("disable_parallel_tool_use"))
        choice = asked_choice(chat_tool_choice(body.tool_choice), tools, allows_parallel=not is_single)
        prompt = await _prompt(api, body, tools)
        params = await api.with_grammar(params, prompt, tools=tools, choice=choice)
        parsers = await api.choice_parsers(prompt, 1, tools=tools, allows_parallel=not is_single)
        generation = await api.generate(request, [prompt], params, priority=None)
        writer = MessagesWriter(generation, parsers[0], model=model)
        if body.stream:
            return await stream(generation, writer)
        with generation:
            return json_response(writer.response((await generation.take_all())[0]))

    @router.post(
        f"{PATH}/count_tokens",
        **operation(CountTokensResponse, body=CountTokensRequest, error=AnthropicErrorBody),
    )
    async def count_tokens(request: Request) -> Response:
        body = await api.read(request, CountTokensRequest)
        api.models.chosen(body.model)
        prompt = await _prompt(api, body, _tools(body))
        return json_response(CountTokensResponse(input_tokens=len(prompt.token_ids or ())))

    return router


def _params(body: MessagesRequest) -> SamplingParams:
    wanted = (body.output_config or {}).get("format") if body.output_format is None else body.output_format
    if not isinstance(wanted, dict | None):
        raise bad_request("output_format must be an object with a type and a schema", param="output_format")
    given: dict[str, Any] = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    given |= {
        "stop": body.stop_sequences or None,
        "structured_outputs": format_structure("output_format", wanted),
    }
    return SamplingParams(
        max_tokens=body.max_tokens, **{name: value for name, value in given.items() if value is not None}
    )


def _tools(body: CountTokensRequest) -> list[Any] | None:
    return offered_tools(chat_tools(body.tools), chat_tool_choice(body.tool_choice))


async def _prompt(api: Api, body: CountTokensRequest, tools: list[Any] | None) -> Prompt:
    is_disabled = (body.thinking or {}).get("type") == "disabled"
    return await chat_prompt(
        api.service,
        chat_messages(body.system, body.messages),
        tools=tools,
        documents=None,
        add_generation_prompt=True,
        continue_final_message=False,
        template_kwargs={"enable_thinking": False} if is_disabled else {},
    )
