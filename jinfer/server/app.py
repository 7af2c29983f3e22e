"""The app: routes, and around them the key, the origins and the log."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from jinfer import __version__
from jinfer.errors import JinferError
from jinfer.server.api import Api
from jinfer.server.auth import ApiKeyGuard
from jinfer.server.error_shapes import AnthropicErrorBody, in_shape_of
from jinfer.server.errors import ClientLeftError, ErrorReply, error_reply, status_reply
from jinfer.server.metrics import ServerMetrics
from jinfer.server.openapi import install_schemas
from jinfer.server.protocol.chat import ChatRequest, ChatResponse
from jinfer.server.protocol.completions import CompletionRequest, CompletionResponse
from jinfer.server.protocol.messages import (
    CountTokensRequest,
    CountTokensResponse,
    MessageBody,
    MessagesRequest,
)
from jinfer.server.protocol.models import ModelCard, ModelList, VersionBody
from jinfer.server.protocol.responses import ResponseBody, ResponsesRequest
from jinfer.server.protocol.text import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from jinfer.server.replies import reply_response
from jinfer.server.request_log import RequestLog
from jinfer.server.routes.chat import chat_router
from jinfer.server.routes.completions import completions_router
from jinfer.server.routes.health import OPEN_PATHS, health_router
from jinfer.server.routes.messages import messages_router
from jinfer.server.routes.models import models_router
from jinfer.server.routes.responses import responses_router
from jinfer.server.routes.text import text_router
from jinfer.server.routes.web import WEB_PATHS, web_router

BODIES = (
    *(
        ChatRequest,
        ChatResponse,
        CompletionRequest,
        CompletionResponse,
        DetokenizeRequest,
        DetokenizeResponse,
    ),
    *(AnthropicErrorBody, CountTokensRequest, CountTokensResponse, MessageBody, MessagesRequest),
    *(ModelCard, ModelList, ResponseBody, ResponsesRequest),
    *(TokenizeRequest, TokenizeResponse, TokenizerInfo, VersionBody),
)


def create_app(
    api: Api, metrics: ServerMetrics, *, keys: Sequence[str] = (), allowed_origins: Sequence[str] = ()
) -> Any:
    """The ASGI app. With `keys`, all but /health and the files of the page at / needs one; `allowed_origins`
    are other pages of which browsers may call it."""
    app: Any = routes_app(api, metrics)
    if keys:
        app = ApiKeyGuard(app, keys, open_paths=OPEN_PATHS | WEB_PATHS)
    if allowed_origins:  # around the guard: a browser asks before it sends the key
        app = CORSMiddleware(
            app, allow_origins=allowed_origins, allow_methods=["*"], allow_headers=["*"], max_age=600
        )
    return RequestLog(app, metrics)


def routes_app(api: Api, metrics: ServerMetrics) -> FastAPI:
    """The routes alone, with their errors in one shape and their page of OpenAPI."""
    # Pages that load scripts from elsewhere are left out, and so are redirects, which lose a body.
    app = FastAPI(title="jinfer", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(models_router(api))
    app.include_router(completions_router(api))
    app.include_router(chat_router(api))
    app.include_router(responses_router(api))
    app.include_router(messages_router(api))
    app.include_router(text_router(api))
    app.include_router(health_router(api, metrics))
    app.include_router(web_router())
    app.add_exception_handler(JinferError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_status)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(Exception, _answer_error)  # which is raised again, so that the log has it
    install_schemas(app, BODIES)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientLeftError):
        try:
            raise error  # to the log, which sends nothing
        finally:
            del error  # its traceback keeps this frame, and the frame it, until a garbage collection
    return _response(request, error_reply(error))


async def _answer_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}; /openapi.json has what there is"
    return _response(request, status_reply(error.status_code, message, error.headers))


async def _answer_validation(request: Request, error: Exception) -> Response:
    return _response(request, status_reply(400, str(error)))


def _response(request: Request, reply: ErrorReply) -> Response:
    return reply_response(in_shape_of(request.url.path, reply))
