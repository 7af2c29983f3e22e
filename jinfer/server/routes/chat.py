"""/v1/chat/completions."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from jinfer.requests.prompts import Prompt
from jinfer.requests.sampling_params import MAX_LOGPROBS, SamplingParams
from jinfer.server.api import Api
from jinfer.server.chat_prompt import chat_prompt
from jinfer.server.chat_writer import ChatWriter
from jinfer.server.json_body import bad_request
from jinfer.server.openapi import operation
from jinfer.server.protocol.chat import ChatRequest, ChatResponse
from jinfer.server.protocol.sampling_fields import refuse, sampling_params
from jinfer.server.streaming import json_response, stream
from jinfer.server.tools import asked_choice, offered_tools

REFUSED_HERE: Mapping[str, tuple[Any, ...]] = {
    "chat_template": (),  # a template is code, and comes with the model alone
    "echo": (False,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"], []),
    "audio": (),
    "add_special_tokens": (False,),  # the template writes them
}


def chat_router(api: Api) -> APIRouter:
    """The endpoint that answers conversations."""
    router = APIRouter()

    @router.post("/v1/chat/completions", **operation(ChatResponse, body=ChatRequest, streams=True))
    async def chat(request: Request) -> Response:
        body = await api.read(request, ChatRequest)
        model = api.models.chosen(body.model)
        params = _params(body)
        tools = offered_tools(body.tools, body.tool_choice)
        choice = asked_choice(body.tool_choice, tools, allows_parallel=body.parallel_tool_calls)
        prompt = await _prompt(api, body, tools)
        params = await api.with_grammar(params, prompt, tools=tools, choice=choice)
        parsers = await api.choice_parsers(
            prompt, params.n, tools=tools, allows_parallel=body.parallel_tool_calls
        )
        generation = await api.generate(request, [prompt], params, priority=body.priority)
        writer = ChatWriter(api, body, generation, model=model, parsers=parsers, has_tools=tools is not None)
        if body.stream:
            return await stream(generation, writer)
        with generation:
            return json_response(writer.response(await generation.take_all()))

    return router


def _params(body: ChatRequest) -> SamplingParams:
    refuse(body, REFUSED_HERE)
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs=true; set it, or leave both out", param="top_logprobs")
    num_top = body.top_logprobs or 0
    if not 0 <= num_top <= MAX_LOGPROBS:
        raise bad_request(f"top_logprobs={num_top} must be from 0 to {MAX_LOGPROBS}", param="top_logprobs")
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return sampling_params(body, max_tokens=max_tokens, logprobs=num_top if body.logprobs else None)


async def _prompt(api: Api, body: ChatRequest, tools: Sequence[Mapping[str, Any]] | None) -> Prompt:
    kwargs: dict[str, Any] = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        kwargs.setdefault("reasoning_effort", body.reasoning_effort)
    return await chat_prompt(
        api.service,
        body.messages,
        tools=tools,
        documents=body.documents,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        template_kwargs=kwargs,
    )
