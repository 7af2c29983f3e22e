"""/v1/completions."""

import dataclasses
from typing import cast

from fastapi import APIRouter, Request, Response

from jinfer.requests.prompts import Prompt, Prompts, as_prompts
from jinfer.requests.sampling_params import SamplingParams
from jinfer.server.api import Api
from jinfer.server.completion_writer import CompletionWriter
from jinfer.server.generation_service import MAX_INLINE_SIZE
from jinfer.server.json_body import bad_request
from jinfer.server.openapi import operation
from jinfer.server.protocol.completions import (
    DEFAULT_MAX_TOKENS,
    CompletionRequest,
    CompletionResponse,
)
from jinfer.server.protocol.sampling_fields import refuse, sampling_params
from jinfer.server.streaming import json_response, stream

REFUSED_HERE = {"suffix": ("",), "prompt_embeds": ()}


def completions_router(api: Api) -> APIRouter:
    """The endpoint that continues prompts."""
    router = APIRouter()

    @router.post("/v1/completions", **operation(CompletionResponse, body=CompletionRequest, streams=True))
    async def complete(request: Request) -> Response:
        body = await api.read(request, CompletionRequest)
        model = api.models.chosen(body.model)
        params = _params(body)
        prompts = await _prompts(api, body)
        generation = await api.generate(
            request, prompts, params, priority=body.priority, keeps_output=body.max_tokens != 0
        )
        writer = CompletionWriter(api, body, generation, model=model, prompts=prompts)
        if body.stream:
            return await stream(generation, writer)
        with generation:
            return json_response(writer.response(await generation.take_all()))

    return router


def _params(body: CompletionRequest) -> SamplingParams:
    refuse(body, REFUSED_HERE)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and body.min_tokens:
        raise bad_request(
            f"min_tokens={body.min_tokens} must not exceed max_tokens=0; lower it", param="min_tokens"
        )
    # The engine gives a token with each prompt; where none is wanted it is left out.
    params = sampling_params(body, max_tokens=max_tokens or 1, logprobs=body.logprobs)
    if not body.echo or body.logprobs is None:
        return params
    # An echoed prompt has log probabilities like the output.
    wanted = max(body.logprobs, body.prompt_logprobs or 0)
    return dataclasses.replace(params, prompt_logprobs=wanted)


async def _prompts(api: Api, body: CompletionRequest) -> list[Prompt]:
    """The prompts of a body; those of text are encoded here where no special tokens are wanted."""
    if body.prompt == []:
        raise bad_request("the list of prompts is empty; give at least one", param="prompt")
    prompts = as_prompts(cast(Prompts, body.prompt))
    if body.add_special_tokens is not False:
        return prompts
    tokenizer = api.service.requests.need_tokenizer("a prompt of text")
    size = sum(len(prompt.text or "") for prompt in prompts)
    return await api.service.in_thread_if(
        size > MAX_INLINE_SIZE,
        lambda: [
            prompt if prompt.text is None else Prompt(token_ids=tuple(tokenizer.encode(prompt.text, False)))
            for prompt in prompts
        ],
    )
