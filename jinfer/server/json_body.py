"""Bodies of requests: read within bounds, and decoded into the fields that an endpoint knows."""

import asyncio
import functools
import re
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
import msgspec.structs
from fastapi import Request

from jinfer.server.errors import ApiError, ClientLeftError
from jinfer.server.limits import ServerLimits

Body = TypeVar("Body", bound=msgspec.Struct)
PLACE = re.compile(r" - at `\$\.?(?P<param>\w+)?[^`]*`$")
JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


async def read_json(request: Request, body_type: type[Body], limits: ServerLimits) -> Body:
    """The body of a request. Raises ApiError where it is too large, too slow, no JSON, or has a field of
    another type than the endpoint's."""
    content_type = request.headers.get("content-type", "")
    if not JSON_TYPE.fullmatch(content_type):
        # A page in a browser may send other types to a server on the same machine without asking it first.
        raise ApiError(
            f"the content-type is {content_type!r}; send JSON with 'content-type: application/json'",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            code="unsupported_media_type",
        )
    return decode(await _read_within(request, limits), body_type, limits)


def decode(raw: bytes, body_type: type[Body], limits: ServerLimits) -> Body:
    """The fields of a body; unknown ones are left out. Raises ApiError."""
    try:
        body = msgspec.json.decode(raw, type=body_type)
    except msgspec.ValidationError as error:
        found = PLACE.search(str(error))
        raise bad_request(str(error), param=found["param"] if found else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise _too_deep(limits) from error
    for name in _open_fields(body_type):
        _check_depth(getattr(body, name), limits)
    return body


@functools.cache
def _open_fields(body_type: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields that take any value, and so any depth. The others were checked against their types."""
    fields = msgspec.structs.fields(body_type)
    return tuple(field.name for field in fields if "Any" in str(field.type))


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """The error of a request that breaks a rule."""
    return ApiError(message, status=HTTPStatus.BAD_REQUEST, param=param, code=code)


async def _read_within(request: Request, limits: ServerLimits) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.max_body_bytes:
        raise _too_large(f"{declared[:20]} bytes", limits)
    try:
        async with asyncio.timeout(limits.max_body_s):
            return await _read(request, limits)
    except TimeoutError as error:
        raise ApiError(
            f"the body did not come within max_body_s={limits.max_body_s}; send it faster, or split it",
            status=HTTPStatus.REQUEST_TIMEOUT,
            code="body_too_slow",
        ) from error


async def _read(request: Request, limits: ServerLimits) -> bytes:
    parts: list[bytes] = []
    num_bytes = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        parts.append(message.get("body", b""))
        num_bytes += len(parts[-1])
        if num_bytes > limits.max_body_bytes:
            raise _too_large("more", limits)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(size: str, limits: ServerLimits) -> ApiError:
    return ApiError(
        f"the body has {size}, and max_body_bytes={limits.max_body_bytes}; send less, or split the request",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        code="body_too_large",
    )


def _too_deep(limits: ServerLimits) -> ApiError:
    return bad_request(
        f"lists and objects are nested more than max_json_depth={limits.max_json_depth} deep; flatten them",
        code="json_too_deep",
    )


def _check_depth(value: Any, limits: ServerLimits) -> None:
    """Raises ApiError for a value that is nested deeper than the bound; the body itself is one level."""
    level = [value]
    for _ in range(limits.max_json_depth):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    raise _too_deep(limits)


def _containers(value: Any) -> list[Any]:
    """The lists and objects right within a value."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inside if isinstance(each, dict | list)]
