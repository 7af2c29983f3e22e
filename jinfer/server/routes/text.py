"""/tokenize, /detokenize and /tokenizer_info."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from jinfer.server.api import Api
from jinfer.server.chat_prompt import chat_prompt
from jinfer.server.generation_service import MAX_INLINE_SIZE
from jinfer.server.json_body import bad_request
from jinfer.server.openapi import operation
from jinfer.server.protocol.text import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from jinfer.server.streaming import json_response
from jinfer.server.token_texts import TokenTexts
from jinfer.text.tokenizer import Tokenizer


def text_router(api: Api) -> APIRouter:
    """The endpoints that need the tokenizer alone."""
    router = APIRouter()

    @router.post("/tokenize", **operation(TokenizeResponse, body=TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        body = await api.read(request, TokenizeRequest)
        api.models.chosen(body.model)
        token_ids = await _token_ids(api, body)
        texts = [TokenTexts(api.tokenizer).text(token_id) for token_id in token_ids]
        return json_response(
            TokenizeResponse(
                count=len(token_ids),
                max_model_len=api.info.limits.max_model_len,
                tokens=list(token_ids),
                token_strs=texts if body.return_token_strs else None,
            )
        )

    @router.post("/detokenize", **operation(DetokenizeResponse, body=DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        body = await api.read(request, DetokenizeRequest)
        api.models.chosen(body.model)
        tokenizer = _tokenizer(api)
        text = await api.service.in_thread_if(
            len(body.tokens) > MAX_INLINE_SIZE, lambda: tokenizer.decode(body.tokens, False)
        )
        return json_response(DetokenizeResponse(prompt=text))

    @router.get("/tokenizer_info", **operation(TokenizerInfo))
    async def tokenizer_info() -> Response:
        tokenizer = _tokenizer(api)
        special = tokenizer.special_tokens
        return json_response(
            TokenizerInfo(
                vocab_size=tokenizer.vocab_size,
                max_model_len=api.info.limits.max_model_len,
                bos_token=special.get("bos_token"),
                eos_token=special.get("eos_token"),
                pad_token=special.get("pad_token"),
                unk_token=special.get("unk_token"),
                chat_template=tokenizer.chat_template,
            )
        )

    return router


async def _token_ids(api: Api, body: TokenizeRequest) -> Sequence[int]:
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give either prompt or messages", param="prompt")
    if body.messages is not None:
        prompt = await chat_prompt(
            api.service,
            body.messages,
            tools=body.tools,
            documents=None,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=bool(body.continue_final_message),
            template_kwargs=body.chat_template_kwargs or {},
        )
        return prompt.token_ids or ()
    text = body.prompt or ""
    tokenizer, adds = _tokenizer(api), body.add_special_tokens is not False
    return await api.service.in_thread_if(len(text) > MAX_INLINE_SIZE, lambda: tokenizer.encode(text, adds))


def _tokenizer(api: Api) -> Tokenizer:
    return api.service.requests.need_tokenizer("this endpoint")
