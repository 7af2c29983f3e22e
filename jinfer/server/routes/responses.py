"""/v1/responses."""

import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from jinfer.requests.prompts import Prompt
from jinfer.requests.sampling_params import SamplingParams
from jinfer.server.api import Api
from jinfer.server.chat_prompt import chat_prompt
from jinfer.server.json_body import bad_request
from jinfer.server.openapi import operation
from jinfer.server.protocol.responses import ResponseBody, ResponsesRequest
from jinfer.server.protocol.sampling_fields import sampling_params
from jinfer.server.protocol.structure_fields import format_structure
from jinfer.server.response_input import input_messages, response_tools
from jinfer.server.response_writer import ResponseWriter
from jinfer.server.streaming import json_response, now_s, stream
from jinfer.server.tools import asked_choice, offered_tools

STATELESS = "this server stores no responses"
REFUSED_HERE: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "previous_response_id": ((), f"{STATELESS}; send the whole conversation as input"),
    "conversation": ((), f"{STATELESS}; send the whole conversation as input"),
    "prompt": ((), "this server stores no prompts; send input and instructions"),
    "background": ((False,), f"{STATELESS}; wait for the answer, or stream it"),
    "truncation": (("disabled",), "a prompt is never cut; leave items out"),
    "top_logprobs": ((0,), "log probabilities are not in responses; use /v1/chat/completions"),
    "max_tool_calls": ((), "it counts the calls of tools that OpenAI runs, and there are none here"),
}
"""Fields that cannot be honoured, the values that ask for nothing, and what to do."""


def responses_router(api: Api) -> APIRouter:
    """The endpoint that answers conversations of items."""
    router = APIRouter()

    @router.post("/v1/responses", **operation(ResponseBody, body=ResponsesRequest, streams=True))
    async def respond(request: Request) -> Response:
        body = await api.read(request, ResponsesRequest)
        model = api.models.chosen(body.model)
        params = _params(body)
        tools = offered_tools(response_tools(body.tools), body.tool_choice)
        choice = asked_choice(body.tool_choice, tools, allows_parallel=body.parallel_tool_calls)
        prompt = await _prompt(api, body, tools)
        params = await api.with_grammar(params, prompt, tools=tools, choice=choice)
        parsers = await api.choice_parsers(prompt, 1, tools=tools, allows_parallel=body.parallel_tool_calls)
        generation = await api.generate(request, [prompt], params, priority=body.priority)
        writer = ResponseWriter(generation, parsers[0], begun=_begun(body, model))
        if body.stream:
            return await stream(generation, writer)
        with generation:
            return json_response(writer.response((await generation.take_all())[0]))

    return router


def _params(body: ResponsesRequest) -> SamplingParams:
    for name, (neutral, remedy) in REFUSED_HERE.items():
        value = getattr(body, name)
        if value is not None and value not in neutral:
            raise bad_request(f"{name} is not supported: {remedy}", param=name)
    if body.n not in (None, 1):
        raise bad_request(f"n={body.n}, and a response is one answer; send several requests", param="n")
    text_format = (body.text or {}).get("format")
    if not isinstance(text_format, dict | None):
        raise bad_request("text.format must be an object with a type", param="text")
    max_tokens = body.max_tokens if body.max_output_tokens is None else body.max_output_tokens
    structure = format_structure("text", text_format)
    return sampling_params(body, max_tokens=max_tokens, logprobs=None, structure=structure)


async def _prompt(api: Api, body: ResponsesRequest, tools: Any) -> Prompt:
    kwargs = dict(body.chat_template_kwargs or {})
    if (effort := (body.reasoning or {}).get("effort")) is not None:
        kwargs.setdefault("reasoning_effort", effort)
    return await chat_prompt(
        api.service,
        input_messages(body.instructions, body.input),
        tools=tools,
        documents=None,
        add_generation_prompt=True,
        continue_final_message=False,
        template_kwargs=kwargs,
    )


def _begun(body: ResponsesRequest, model: str) -> ResponseBody:
    """The response before its first item."""
    return ResponseBody(
        id=f"resp_{uuid.uuid4().hex}",
        created_at=now_s(),
        model=model,
        status="in_progress",
        output=[],
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        temperature=body.temperature,
        top_p=body.top_p,
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        reasoning=body.reasoning,
    )
