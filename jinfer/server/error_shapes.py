"""The shape of an error, which depends on the API that a path belongs to."""

from http import HTTPStatus

import msgspec

from jinfer.server.errors import ErrorBody, ErrorReply

ANTHROPIC_PATH = "/v1/messages"
ANTHROPIC_TYPES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
}


class AnthropicErrorDetail(msgspec.Struct):
    """The fields that Anthropic's clients read."""

    type: str
    message: str


class AnthropicErrorBody(msgspec.Struct):
    """The body of an error of /v1/messages, and of the event that ends its stream."""

    error: AnthropicErrorDetail
    type: str = "error"


def in_shape_of(path: str, reply: ErrorReply) -> ErrorReply:
    """The reply as clients of a path expect it."""
    is_anthropic = path == ANTHROPIC_PATH or path.startswith(ANTHROPIC_PATH + "/")
    return as_anthropic(reply) if is_anthropic else reply


def as_anthropic(reply: ErrorReply) -> ErrorReply:
    """The reply with the same message in Anthropic's shape."""
    usual = "invalid_request_error" if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"
    detail = AnthropicErrorDetail(
        type=ANTHROPIC_TYPES.get(reply.status, usual),
        message=msgspec.json.decode(reply.body, type=ErrorBody).error.message,
    )
    return reply._replace(body=msgspec.json.encode(AnthropicErrorBody(error=detail)))
