"""The OpenAPI page of endpoints whose bodies are structs of msgspec."""

from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import FastAPI

from jinfer.server.errors import ErrorBody

REFERENCE = "#/components/schemas/{name}"
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}
ERRORS = {
    400: "a field is malformed, outside its rule or not supported",
    401: "the key is missing or wrong",
    404: "no such model",
    408: "the request came too slowly",
    413: "the body is too large",
    415: "the body is no JSON",
    429: "the client has too many requests that run",
    500: "the engine failed",
    503: "the queue is full, or the server shuts down",
}


def operation(
    answer: type[msgspec.Struct],
    *,
    body: type[msgspec.Struct] | None = None,
    streams: bool = False,
    error: type[msgspec.Struct] = ErrorBody,
) -> dict[str, Any]:
    """Keywords of a route: the schemas of its body and its answers."""
    content = {"application/json": {"schema": _reference(answer)}, **(STREAM if streams else {})}
    responses: dict[int | str, dict[str, Any]] = {200: {"description": "the answer", "content": content}}
    for status, description in ERRORS.items():
        error_content = {"application/json": {"schema": _reference(error)}}
        responses[status] = {"description": description, "content": error_content}
    extra = {}
    if body is not None:
        schema = {"application/json": {"schema": _reference(body)}}
        extra = {"requestBody": {"required": True, "content": schema}}
    return {"responses": responses, "openapi_extra": extra, "response_model": None}


def install_schemas(app: FastAPI, structs: Iterable[type[msgspec.Struct]]) -> None:
    """Gives the page of an app the schemas of all structs that its routes refer to."""
    make = app.openapi
    schemas = msgspec.json.schema_components([*structs, ErrorBody], ref_template=REFERENCE)[1]

    def openapi() -> dict[str, Any]:
        page = make()
        page.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        return page

    app.openapi = openapi  # type: ignore[method-assign]


def _reference(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(name=struct.__name__)}
