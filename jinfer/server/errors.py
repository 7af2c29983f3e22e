"""Errors as HTTP answers: status, headers and a body of one shape."""

import math
import random
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from jinfer.errors import EngineError, OverloadedError, RequestError, TokenizerError

CLIENT_LEFT = 499  # nginx's status for a client that closed the connection, which gets to logs alone
NO_RETRY = {"x-should-retry": "false"}  # read by OpenAI's clients, which else repeat a 503 twice


class ErrorDetail(msgspec.Struct):
    """The fields that OpenAI's clients read: `param` is the field of the request at fault, if one is."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The body of every answer that is an error, and of the chunk that ends a stream."""

    error: ErrorDetail


class ErrorReply(NamedTuple):
    """An answer that is an error."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class ApiError(RequestError):
    """A request that the server refuses with a status of its own. `code` names the rule for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        self.headers = headers or {}


class ClientLeftError(ApiError):
    """The client closed the connection before its answer was there; nobody reads this."""

    def __init__(self) -> None:
        super().__init__("the client closed the connection", status=CLIENT_LEFT, code="client_left")


class DrainingError(ApiError):
    """The server is about to end and takes no new requests."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            "the server is shutting down and takes no more requests; send this one to another server",
            status=HTTPStatus.SERVICE_UNAVAILABLE,
            code="shutting_down",
            headers={**retry_after(retry_after_s * random.uniform(1, 2)), **NO_RETRY},  # not all together
        )


def retry_after(seconds: float) -> dict[str, str]:
    """The header; it has whole seconds."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def error_reply(error: Exception) -> ErrorReply:
    """The answer for an error. One that nobody expected shows nothing of its inside."""
    if isinstance(error, ApiError):
        return _reply(error.status, str(error), param=error.param, code=error.code, headers=error.headers)
    if isinstance(error, OverloadedError):
        headers = retry_after(error.retry_after_s)
        return _reply(HTTPStatus.SERVICE_UNAVAILABLE, str(error), code="overloaded", headers=headers)
    if isinstance(error, RequestError):
        return _reply(HTTPStatus.BAD_REQUEST, str(error), param=error.param, code=error.code)
    if isinstance(error, TokenizerError):  # such as no chat template: another endpoint serves
        return _reply(HTTPStatus.BAD_REQUEST, str(error))
    if isinstance(error, EngineError):
        return _reply(HTTPStatus.INTERNAL_SERVER_ERROR, str(error), code="engine_failed")
    return _reply(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "an error inside the server; its log has it under this answer's x-request-id",
        code="internal_error",
    )


def status_reply(status: int, detail: str, headers: Mapping[str, str] | None = None) -> ErrorReply:
    """The answer for a status that the framework or the protocol chose."""
    return _reply(status, detail, headers=headers or {})


def _reply(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ErrorReply:
    detail = ErrorDetail(message=_encodable(message), type=_error_type(status), param=param, code=code)
    return ErrorReply(int(status), msgspec.json.encode(ErrorBody(error=detail)), headers or {})


def _error_type(status: int) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return "authentication_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


def _encodable(text: str) -> str:
    """The text with lone surrogates escaped, which no UTF-8 can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
